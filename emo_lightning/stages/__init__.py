"""One function for each kind of stage that is not a fit: `KIND_stage(out, **arguments)`.

Its signature is what the stage's YAML may say, its types are what jsonargparse checks, and its docstring is what the reference shows.
It loads, computes, writes its files into `out` and prints its table; the work itself is in the rooms below. A new one needs a row in
`emo_lightning/experiment/kinds.py`.
"""
