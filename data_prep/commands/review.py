"""`emo prep review`: a page for human inspection and for the user study, agreement, Label Studio export and import."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING

from data_prep.commands.console import add_store_argument, new_parser
from emo_lightning.core.options import Parser, Whole, output_path
from emo_lightning.core.terminal import say, say_json

if TYPE_CHECKING:
    from data_prep.review.log import ReviewLog
    from data_prep.review.server import Session
    from data_prep.review.session import ReviewSession
    from data_prep.store.store import Store
    from emo_lightning.core.tables.table import Table


_PAGE, _STUDY = "the review page", "the page of a study (--study)"
_REPORT, _TABLE4 = "a report (--report)", "the report of a study (--study and --report)"
_EXPORT, _IMPORT = "--label-studio-export", "--label-studio-import"
_MODES = {
    _PAGE: ("port", "sample", "seed", "states", "reviewer", "second"),
    _STUDY: ("study", "port", "reviewer"),
    _REPORT: ("report", "json", "out"),
    _TABLE4: ("study", "report", "json", "out"),
    _EXPORT: ("label_studio_export", "sample", "seed", "states", "reviewer", "second", "images", "with_reviews"),
    _IMPORT: ("label_studio_import", "reviewer"),
}


def _parser() -> Parser:
    parser = new_parser(
        "review",
        "Look at records on a page that this machine serves, and say of each field whether it is right; every decision is saved at once, "
        "and an export follows it. --report prints how often the records are right and how far reviewers agree, --study runs the user "
        "study of Table 4, and records can go through Label Studio instead of our page.",
        "emo prep review store --sample 200 --reviewer ada\n  emo prep review store --second --reviewer ben\n"
        "  emo prep review store --report\n  emo prep review store --study configs/prep/study/table4.yaml",
    )
    add_store_argument(parser)
    parser.add_argument(
        "--port", type=Whole(0, 65535), default=0, help="port of the page on 127.0.0.1; 0 takes a free one (default: 0)"
    )
    parser.add_argument(
        "--sample",
        type=Whole(),
        default=200,
        metavar="N",
        help="number of records to look at, stratified by emotion, source and outcome; 0 takes all (default: 200)",
    )
    parser.add_argument("--seed", type=Whole(), default=0, metavar="N", help="seed of the sample (default: 0)")
    parser.add_argument(
        "--states",
        default="human,valid",
        metavar="A,B",
        help="outcomes to look at, of human, valid and discarded (default: human,valid)",
    )
    parser.add_argument(
        "--reviewer",
        metavar="NAME",
        help="your name in the ledger (default: first, with --second: second; first-2 while first is at work, and so on)",
    )
    parser.add_argument(
        "--second",
        action="store_true",
        help="look at what another reviewer has finished, without seeing what they said, to measure agreement",
    )
    parser.add_argument(
        "--study", metavar="CONFIG", help="YAML of a user study (Table 4): serve it, or with --report print its result"
    )
    parser.add_argument("--report", action="store_true", help="print accuracy and agreement (with --study: Table 4), then stop")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, for programs")
    parser.add_argument(
        "--out",
        type=output_path,
        metavar="DIR",
        help="also write the report into this directory: review.json and .md, accuracy and agreement as .tex and .csv (with --study: "
        "table4.json, .md, .tex and .csv)",
    )
    studio = parser.add_argument_group("Label Studio")
    studio.add_argument(
        "--label-studio-export",
        type=output_path,
        metavar="FILE",
        help="write the sample as tasks, and the labelling configuration beside them as FILE.xml",
    )
    studio.add_argument(
        "--images",
        choices=("local", "data"),
        default="local",
        help="where the tasks have the images: `local`, as files below the store, for a Label Studio with "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=STORE; `data`, inside the file (default: local)",
    )
    studio.add_argument("--with-reviews", action="store_true", help="also export the decisions of --reviewer, as annotations")
    studio.add_argument("--label-studio-import", metavar="FILE", help="read annotations of tasks that this command exported")
    parser.modes(_MODES)
    return parser


def main(argv: list[str]) -> int:
    """Serve, report, export or import, as the arguments say."""
    parser = _parser()
    args = parser.parse_args(argv)
    parser.refuse_unused(argv, _mode(args))
    from data_prep.review.log import ReviewLog
    from data_prep.store.store import Store

    # Reviews need no lock of the store: a pass may run at the same time.
    with Store(args.store, write=False) as store, ReviewLog(store.ledger.path, write=not args.report) as log:
        if args.label_studio_import is not None:
            return _import(args, log)
        if args.label_studio_export is not None:
            return _export(args, store, log)
        if args.report:
            return _report(args, log)
        if args.study is not None:
            from data_prep.review.study import StudyConfig
            from data_prep.review.study_session import StudySession

            study = StudySession(store, log, StudyConfig.load(args.study), args.reviewer)
            what = f"study {study.config.name}: {len(study.items)} images, {len(study.config.groups)} groups"
            return _serve(study, args.port, what)
        return _review(args, store, log)


def _mode(args: argparse.Namespace) -> str:
    """What the command does; options of another mode are refused, so two of them never stand together."""
    if args.label_studio_import is not None:
        return _IMPORT
    if args.label_studio_export is not None:
        return _EXPORT
    if args.report:
        return _REPORT if args.study is None else _TABLE4
    return _PAGE if args.study is None else _STUDY


def _review(args: argparse.Namespace, store: Store, log: ReviewLog) -> int:
    from data_prep.review.names import free_name
    from data_prep.review.session import check_name
    from data_prep.store.rehearsal import is_rehearsal

    wanted = _default_name(args) if args.reviewer is None else check_name(args.reviewer, "--reviewer")
    with free_name(store.root, wanted) as free:
        review = _review_session(args, store, log, args.reviewer or free)
        human = sum(review.states[i] == "human" for i in review.queue)
        what = "a rehearsal: all answers are made up\n" if is_rehearsal(store.ledger) else ""
        what += f"{len(review.queue)} of {len(review.states)} records, {human} of them from the human queue; reviewer {review.reviewer}"
        if args.reviewer is not None and free != args.reviewer:
            what += f"\na page for {args.reviewer} is open elsewhere; a decision that it has not seen is shown before it is replaced"
        elif args.reviewer is None and (before := len({row.item_id for row in log.reviews(reviewer=free)})):
            what += f"\n{free} has decided about {before} records before; if that is not you, end this and give --reviewer NAME"
        return _serve(review, args.port, what)


def _default_name(args: argparse.Namespace) -> str:
    return "second" if args.second else "first"


def _review_session(args: argparse.Namespace, store: Store, log: ReviewLog, reviewer: str) -> ReviewSession:
    from data_prep.review.sample import parse_states
    from data_prep.review.session import ReviewSession

    states = parse_states(args.states)
    return ReviewSession(store, log, reviewer, states=states, sample=args.sample or None, seed=args.seed, second=args.second)


def _serve(session: Session, port: int, what: str) -> int:
    from data_prep.review.server import PageServer

    server = PageServer(session, port)
    say(what)
    say(f"open {server.url}", flush=True)
    say("every decision is saved at once; Ctrl-C ends, the same command goes on", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        say()
    finally:
        server.server_close()
    return 0


def _report(args: argparse.Namespace, log: ReviewLog) -> int:
    from data_prep.review.report_tables import report_notes, report_tables, table4_table

    if args.study is not None:
        from data_prep.review.study import StudyConfig, table4

        study = table4(log, StudyConfig.load(args.study))
        _give(args, "table4", study, [table4_table(study)], [])
    else:
        from data_prep.review.agreement import report

        found = report(log)
        _give(args, "review", found, report_tables(found), report_notes(found))
    return 0


def _give(args: argparse.Namespace, name: str, found: Mapping[str, object], tables: list[Table], notes: list[str]) -> None:
    """Print what was found, and write it where `--out` says."""
    from emo_lightning.core.files import write_json
    from emo_lightning.core.tables.files import write_beside
    from emo_lightning.core.tables.terminal import show

    if args.out is not None:
        write_json(args.out / f"{name}.json", found)
        write_beside(args.out, name, tables, notes)
    if args.json:
        say_json(found)
        return
    show(table for table in tables if table.rows)
    for note in notes:
        say(note)


def _export(args: argparse.Namespace, store: Store, log: ReviewLog) -> int:
    from data_prep.review.label_studio import write_tasks

    session = _review_session(args, store, log, args.reviewer or _default_name(args))
    config = write_tasks(session, args.label_studio_export, embed=args.images == "data", with_reviews=args.with_reviews)
    say(f"{args.label_studio_export}: {len(session.queue)} tasks; labelling config {config}")
    if args.images == "local":
        say(
            "start Label Studio with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=the store"
        )
    return 0


def _import(args: argparse.Namespace, log: ReviewLog) -> int:
    from data_prep.review.label_studio_import import read_annotations

    counts = read_annotations(log, args.label_studio_import, args.reviewer)
    say(f"{args.label_studio_import}: " + ", ".join(f"{name} {n}" for name, n in counts.items()))
    return 0
