"""The report: one `Table` for everything that is measured, drawn in the terminal, on the page, in files and in W&B.

How a table gets there:

1. A stage computes a result and writes it as JSON (`analysis/`, `stages/`).
2. A builder in `tables/` makes `Table`s of that JSON: key, title, columns, rows, note. It knows no renderer. The type, and its forms
   that `data_prep` writes as well, are in `core/tables/`.
3. A stage of its own writes them as `page.json` (`page.write_page`), or its kind has an entry in `kinds.KINDS`, and the report
   builds them from the stage's JSON. `terminal.show_page` prints the same tables when the stage runs.
4. `sections` reads the stages of a run, adds to every table what it came from (`provenance`), and `build` writes the page
   (`html`, `templates/`) and the files beside it (`table_files`: Markdown, LaTeX, CSV). `wandb` logs the same tables.
   What a page opens with (`opening`), the warnings (`cautions`) and what each arm is (`arms`) follow from the same files.
5. Programs find a table, a row and a column by key (`Table.cell`): the tiles on top of the page (`facts`), several runs side
   by side (`side_by_side`). A title may be worded anew at any time.

How to add a table: write a function that makes `Table`s of the stage's result in `tables/`, and either

- call `write_page(out, Page(title, tables=...))` in the stage: nothing else is needed; or
- for a table of the paper, with a heading of its own, add one line to `kinds.KINDS`:
  `"table9": Kind("table9.json", "Table 9", "table9", "Table 9: …", table9_tables)`. The second text is what a note says where a run
  has no such stage; leave it empty if not every run is expected to have one.
"""
