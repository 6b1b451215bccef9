"""A data set whose whole truth is known, so that everything can be tried without a key, a download or a dollar.

- `world` draws images of a background, an attribute and a subject; their emotion follows from the combination.
- `world_source` hands them to an import, `world_tars` writes them with their truth, as references.
- `simulation` answers in place of annotators, critic, image models and a Batch API, over HTTP on loopback, with error rates that are
  known and a bill of its own.
- `prepare` makes the demo's data with all of it: draw, annotate, ground, export.
- `config` is the configuration of a pass with the keys `world` and `simulation`; no other room knows them.
"""
