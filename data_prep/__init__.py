"""The annotation factory: from images of any source to tars of records that `emo_lightning` trains on.

The walk of one image, room by room:

1. `sources` reads a data set, a folder or a list of addresses, checks every image, and yields `store.items.SourceItem`s.
2. `store` keeps the bytes under their sha256 and everything else in one SQLite file, the ledger; an image becomes a `store.rows.Item`.
3. `dedup` groups images that show the same and keeps one of each group.
4. `emovit` lets a local model vote on the emotion; its votes are kept in the ledger.
5. `annotate` asks the annotators, pools their votes, has the critic judge the draft, and asks again what it flags; every question
   goes through `provider`, which pays for each reply once. The outcome is `valid`, `discarded` or `human`.
6. `grounding` finds boxes and masks for the subject (with `local_models`).
7. `review` shows people what is left to them, and keeps what they decide.
8. `export` writes what is valid as tars, one record an image, with splits that keep groups together.

Beside the walk: `expand` makes new images from triplets that are rare, `stats` counts and compares (Tables 1 and 3, the triplet
graph), `engine` runs what computes and what pays on one machine or on a Ray cluster, `demo` draws a world whose truth is known and
simulates annotators over it. `config` is the configuration of a pass, `settings` what every configuration is made of, `commands`
what `emo prep` runs.

Rooms import downwards alone; `tests/test_imports.py` has the table.
"""
