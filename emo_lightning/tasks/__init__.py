"""What is trained and run by Lightning: one LightningModule for each objective, and what they share.

`base.Task` carries every training: a loss that is a sum, averaged exactly over micro-batches and ranks. A subclass says what one
micro-batch costs, in `_step(batch, stage)`; its batch is one of those in `data/batches.py`.

| objective | module | batch | writes |
|---|---|---|---|
| answers of the language model (rounds 1 and 2, equation 1) | `sft.SFTTask` | `ChatBatch` | `adapter/` or `model/` |
| rewards for the backbone's own replies (round 3) | `grpo.GRPOTask` | `RolloutBatch` | `adapter/` or `model/` |
| hidden states of a frozen backbone | `features.FeatureTask` | `QuestionBatch` | a feature cache |
| answers of a frozen backbone | `predict.PredictTask` | `QuestionBatch` | `predictions.jsonl` |
| emotion embeddings (DES, equations 2 to 4) | `des.DESTask` | `FeatureBatch` or `LabelledBatch` | `head/` |
| linear probes on the DES (Table 6) | `probe.ProbeTask` | `EmbeddingBatch` | `probe/`, `metrics.json`, `des.parquet` |
| text and image similarity of the demo world | `clip.CLIPTask` | `PairBatch` | `model/` |

So the walk is hidden states → DES → probe. To add a loss of the DES head, see `models/des_losses.py`: one function and one entry.
What a data module must know of its task stands in `data/protocols.py`; no task writes into its data module.
"""
