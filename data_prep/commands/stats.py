"""`emo prep stats`: Table 1, Figure 5, agreement, revisions and cost."""

from __future__ import annotations

from data_prep.commands.console import new_parser


def main(argv: list[str]) -> int:
    """Print the statistics of stores or tars."""
    parser = new_parser(
        "stats",
        "Statistics of stores or tars: the row of Table 1, the balance of emotions (Figure 5), agreement of the annotators, revisions, "
        "licences, and for stores outcomes and cost. (Table 3: `emo prep table3`; Table 4: `emo prep review STORE --study CONFIG --report`.)",
        "emo prep stats store --out statistics",
    )
    parser.add_argument("records", nargs="+", metavar="STORE|TARS", help="stores, tars, or folders of tars")
    parser.add_argument("--name", help="of the data set, in Table 1 (default: that of the first store or folder)")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--out", help="also write stats.json, stats.md, figure5.png and figure5.pdf there")
    args = parser.parse_args(argv)
    import json
    from pathlib import Path

    from data_prep.export.read import is_store, read_records
    from data_prep.export.shards import ExportError
    from data_prep.stats.distribution import draw
    from data_prep.stats.summary import as_text, figure_rows, spending, summarise
    from data_prep.store.store import Store

    stats = summarise(read_records(args.records))
    stats["stores"] = {}
    for path in filter(is_store, args.records):
        with Store(path, write=False) as store:
            stats["stores"][Path(path).name] = spending(store.ledger)
    if not stats["table1"]["images"] and not stats["stores"]:
        msg = f"{', '.join(args.records)}: there is no record"
        raise ExportError(msg)
    text = as_text(args.name or Path(args.records[0]).resolve().name, stats)
    if args.out:
        out = Path(args.out)
        draw(figure_rows(stats), out)
        (out / "stats.json").write_text(json.dumps(stats, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (out / "stats.md").write_text(text + "\n", encoding="utf-8")
    print(json.dumps(stats, ensure_ascii=False) if args.json else text)
    return 0
