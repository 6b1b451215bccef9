"""Values of arrays: how good boxes, emotions, intensities, texts and probabilities are. No files, no tables, no report.

| module | gives |
|---|---|
| `classification` | accuracy, macro precision, recall and F1 |
| `matching`, `boxes` | overlap of boxes, one-to-one matchings, and the scores of whole images |
| `accumulators`, `scores`, `triplets` | the metrics of Table 5 as torchmetrics over exact sums |
| `spelling` | whether two names of a thing are the same, or similar in their words |
| `clip` | similarity of texts and images by CLIP |
| `calibration`, `conformal`, `distributions` | what predicted probabilities are worth |
| `rewards`, `emotion_space` | what a reply is worth in round 3; distances of the eight emotions, where they are points |
| `correlation` | Pearson's and Spearman's, over resamples |
| `suites` | public suites of questions, by the rules of each published scorer and by ours |
| `bootstrap` | intervals and paired differences over images |
"""
