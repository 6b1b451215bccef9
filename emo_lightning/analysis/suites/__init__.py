"""Public suites of questions on emotion: what a model's replies are worth, by every published scorer and by ours.

| module | does |
|---|---|
| `asked` | a question as all scorers see it, and what each suite consists of |
| `replies` | files of replies: ours, and as they are published |
| `scored` | one scorer's metrics on one model's replies |
| `vecbench`, `mvei`, `eemo` | the scorers of each suite |
| `benchmark` | several models on one suite, with intervals, gain and collapse against the untuned base |
| `published` | values that others have published, each with its source |
| `submissions` | what is handed in for a leaderboard, and what is checked of it |
"""
