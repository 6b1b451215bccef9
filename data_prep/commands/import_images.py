"""`emo prep import`: take images into a store."""

from __future__ import annotations

import sys
from pathlib import Path

from data_prep.commands.console import new_parser, progress_bars


def main(argv: list[str]) -> int:
    """Take images into a store."""
    parser = new_parser(
        "import", "Take images into a store.", "emo prep import folder ~/photos --into store --licence CC-BY-4.0"
    )
    parser.add_argument("source", help="folder (a tree of images) or world (the drawn demo world)")
    parser.add_argument("path", help="the folder, or for world a YAML file with a `world` key")
    parser.add_argument("--into", required=True, metavar="STORE", help="directory of the store, made if missing")
    parser.add_argument("--name", help="source name in the records (folder)")
    parser.add_argument("--licence", help="licence of all images (folder)")
    args = parser.parse_args(argv)
    from data_prep.sources import open_source
    from data_prep.store import ImportReport, Store

    source = open_source(args.source, licence=args.licence, source_name=args.name)
    with Store(args.into, write=True) as store, progress_bars() as progress:
        task = progress.add_task("import", total=None)

        def on_item(report: ImportReport) -> None:
            progress.update(task, advance=1, description=f"import: {report.added} added, {report.refused} refused")

        report = store.import_items(source.read(Path(args.path)), on_item)
    for refusal in report.refusals:
        print(f"refused {refusal}", file=sys.stderr)
    if report.refused > len(report.refusals):
        print(f"… and {report.refused - len(report.refusals)} more refused", file=sys.stderr)
    print(f"added {report.added}, known already {report.known}, changed since and left as they were {report.changed}")
    print(f"with a label of the source {report.labelled}; refused {report.refused}")
    for reason, count in sorted(report.reasons.items()):
        print(f"  {count} × {reason}")
    return 0 if report.added or report.known else 1
