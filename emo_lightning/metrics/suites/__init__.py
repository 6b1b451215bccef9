"""How suites of questions on emotion are scored: by the rules of whoever published values on them, and by ours.

The rules disagree, so that the same replies have other values by each (EEmo-Bench, GPT-4o, questions on pairs, What/How: 61.5 and 36.9). Every
module here is one source; no rule is used in the name of another. Rules were written down from the sources as they stood at the commits
that `docs/how-to/suites.md` names, and written anew here.

| module | source | suites |
|---|---|---|
| `emocaliber` | EmoCaliber (arXiv:2512.15528) | VECBench: the first candidate found, else none; confidence |
| `emobserver` | EmObserver (arXiv:2607.21061) | MVEI, VECBench, perception of EEmo-Bench: always an answer |
| `eemo_bench` | EEmo-Bench (arXiv:2504.16405) | verdicts that its authors published, judged descriptions, valence, arousal, dominance |
| `eemo_logic` | EEmo-Logic (arXiv:2602.01173) | rankings of three emotions |
| `own` | this project | all: an answer that can be read in one way alone, else none |
| `tags` | – | what stands between a pair of tags |
| `resampled` | – | accuracy, F1, calibration, correlation over resamples of a bootstrap |

Strings and arrays in, values out: no files, no tables.
"""
