"""What a data set is made of, and how far it can be trusted: the paper's Tables 1 and 3, Figure 5, agreement and cost.

`summary` counts everything that `emo prep stats` prints in one pass over the records. To add a statistic, for example `length`:

1. Write `stats/length.py` with a dataclass that counts: `add(record)` takes one record, `as_json()` gives the result as a `TypedDict`
   (see `agreement` or `table1`). It reads no file and knows no store.
2. In `summary.py` add its key to `Statistics` and its `add` to the loop of `summarise`. It then stands in `stats.json`, and in what
   `--json` prints. In `summary_tables.py` make a `Table` of it: it is printed, and stands in `stats.md` and as LaTeX and CSV.
3. Test it in `tests/data_prep/stats/test_length.py` with a few records from `tests.data_prep.conftest.truth`.

A table that asks models anew, as `table3` does, gets a command of its own in `commands/` and takes every reply through the ledger.
"""
