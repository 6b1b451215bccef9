"""The one table of the project, and the forms of it that need nothing but its cells.

Both packages build what they measure as a `table.Table` and know no renderer. `terminal.show` prints one, `markdown`, `latex` and `csv`
write one, and `files` holds which suffix is which of these. HTML, W&B and the page are in `emo_lightning/report/`.

Programs find a table, a row and a column by key (`Table.cell`). A title may be worded anew at any time.
"""
