"""`emo prep stats`: Table 1, Figure 5, agreement, revisions and cost."""

from __future__ import annotations

from data_prep.commands.console import add_json_argument, new_parser
from emo_lightning.core.options import ALWAYS, output_path
from emo_lightning.core.terminal import say, say_json


def main(argv: list[str]) -> int:
    """Print the statistics of stores or tars."""
    parser = new_parser(
        "stats",
        "Print the statistics of stores or tars: the row of Table 1, the balance of the emotions (Figure 5), agreement of the annotators, "
        "revisions and licences; for stores also outcomes and cost.\n\n"
        "Table 3 is printed by `emo prep table3`, Table 4 by `emo prep review STORE --study CONFIG --report`.",
        "emo prep stats store --out statistics",
    )
    parser.add_argument("records", nargs="+", metavar="STORE|TARS", help="stores, tars, or folders of tars")
    parser.add_argument("--name", help="name of the data set in Table 1 (default: that of the first store or folder)")
    add_json_argument(parser)
    parser.add_argument(
        "--out",
        type=output_path,
        metavar="DIR",
        help="also write stats.json, stats.md, figure5.png and figure5.pdf into this directory, and each table as .tex and .csv: table1, "
        "figure5, agreement, agreement-final, records, cost",
    )
    text = "text (without --json, or with --out)"
    parser.modes({ALWAYS: ("json", "out"), text: ("name",)})
    args = parser.parse_args(argv)
    parser.refuse_unused(argv, *([text] if args.out or not args.json else []))
    from pathlib import Path

    from data_prep.export.earlier import ExportError
    from data_prep.export.read import is_store, read_records
    from data_prep.stats.distribution import draw
    from data_prep.stats.summary import spending, summarise
    from data_prep.stats.summary_tables import figure_rows, summary_notes, summary_tables
    from data_prep.store.store import Store
    from emo_lightning.core.files import write_json
    from emo_lightning.core.tables.files import write_beside
    from emo_lightning.core.tables.terminal import show

    stats = summarise(read_records(args.records))
    stats["stores"] = {}
    for path in filter(is_store, args.records):
        with Store(path, write=False) as store:
            stats["stores"][Path(path).name] = spending(store.ledger)
    if not stats["table1"]["images"] and not stats["stores"]:
        msg = f"{', '.join(args.records)}: there is no record"
        raise ExportError(msg)
    tables = summary_tables(args.name or Path(args.records[0]).resolve().name, stats)
    notes = summary_notes(stats)
    if args.out:
        out = args.out
        draw(figure_rows(stats), out)
        write_json(out / "stats.json", stats)
        write_beside(out, "stats", tables, notes)
    if args.json:
        say_json(stats)
    else:
        show(table for table in tables if table.rows)
        for note in notes:
            say(note)
    return 0
