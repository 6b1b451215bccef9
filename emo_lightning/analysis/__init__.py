"""What the paper and its reader ask of trained models. Each module computes one analysis and gives typed, JSON-ready results.

| module | answers |
|---|---|
| `table5`, `table5_rows`, `table5_result`, `baselines` | Table 5: boxes, text, emotion, intensity; what answers without an image reach |
| `table6`, `table6_paired`, `probe_predictions` | Table 6: linear probes on frozen DES; whether arms differ |
| `mds`, `mds_arms` | Figure 6: DES in two dimensions |
| `calibration` | whether probabilities mean what they say; conformal sets |
| `cross_dataset`, `label_spaces`, `right_answers` | what fine-tuning costs on other data sets |
| `across_seeds` | the same over several trainings, and whether a difference is more than their choice |
| `faithfulness` | whether the emotion depends on the region that its words name |
| `des_space` | what the paper promises of the embedding: retrieval, affective distance, interpolation, stability |
| `references`, `scored` | their input: annotated images, and predicted distributions beside them |

Nothing here writes a file or builds a table for the report.
"""
