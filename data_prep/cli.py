"""`emo prep …`: build a data set. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_prep.pipeline import PassReport

DEFAULT_CONFIG = "configs/prep/default.yaml"

_FORMATTER = argparse.RawDescriptionHelpFormatter


def build_parser() -> argparse.ArgumentParser:
    """The parser of `emo prep`."""
    parser = argparse.ArgumentParser(
        prog="emo prep",
        description="Build a data set: import → annotate (cross-verify, criticise, ground) → export.",
        epilog="example:\n  emo prep import folder photos/ --into store\n  emo prep annotate store\n"
        "  emo prep export store tars --name mine",
        formatter_class=_FORMATTER,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=text, description=text, epilog=f"example:\n  {example}", formatter_class=_FORMATTER
        )

    sub = add("import", "Take images into a store.", "emo prep import folder ~/photos --into store --licence CC-BY-4.0")
    sub.add_argument("source", help="folder (a tree of images) or world (the drawn demo world)")
    sub.add_argument("path", help="the folder, or for world a YAML file with a `world` key")
    sub.add_argument("--into", required=True, metavar="STORE", help="directory of the store, made if missing")
    sub.add_argument("--name", help="source name in the records (folder)")
    sub.add_argument("--licence", help="licence of all images (folder)")

    sub = add(
        "annotate",
        "Annotate, cross-verify, criticise and ground what has no outcome yet.",
        "emo prep annotate store --config configs/prep/default.yaml",
    )
    sub.add_argument("store")
    sub.add_argument("--config", default=DEFAULT_CONFIG, help=f"YAML of the pass (default: {DEFAULT_CONFIG})")
    sub.add_argument("--base-url", help="send everything to this endpoint instead, e.g. that of `emo prep simulate`")
    sub.add_argument(
        "--resend-unknown", action="store_true", help="send calls of unknown outcome again; they may be paid twice"
    )
    sub.add_argument("--no-ground", action="store_true", help="leave out grounding")
    sub.add_argument("--check", action="store_true", help="check configuration, prices and keys, then stop")

    sub = add("export", "Write WebDataset tars and a manifest.", "emo prep export store tars --name mine")
    sub.add_argument("store")
    sub.add_argument("out", help="directory of the tars")
    sub.add_argument("--name", default="emo", help="first part of the shard names (default: emo)")
    sub.add_argument("--samples-per-shard", type=int, default=1000, help="images in one tar (default: 1000)")
    sub.add_argument("--config", help="YAML whose `splits` are used for images without a split (default: 0.9, 0.05, 0.05)")

    sub = add("status", "What is in a store: outcomes, calls, cost.", "emo prep status store --json")
    sub.add_argument("store")
    sub.add_argument("--json", action="store_true", help="for programs")

    sub = add(
        "world",
        "Write reference tars of the demo world, with its known truth.",
        "emo prep world tars/test --split test --count 300 --labels truth",
    )
    sub.add_argument("out", help="directory of the tars")
    sub.add_argument("--split", required=True, help="pretrain, train, val, test or heldout")
    sub.add_argument("--count", type=int, required=True, help="number of images")
    sub.add_argument(
        "--labels", choices=("truth", "neutral"), default="truth", help="neutral: caption, triplet and boxes, no emotion"
    )
    sub.add_argument("--seed", type=int, default=0, help="of the world (default: 0)")

    sub = add(
        "simulate",
        "Serve simulated annotators for a store of the demo world, until interrupted.",
        "emo prep simulate store --config configs/prep/world.yaml --port 8377",
    )
    sub.add_argument("store")
    sub.add_argument(
        "--config",
        default="configs/prep/world.yaml",
        help="YAML with `world` and `simulation` (default: configs/prep/world.yaml)",
    )
    sub.add_argument("--port", type=int, default=8377, help="on 127.0.0.1; 0 takes a free one (default: 8377)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (1: the message on standard error says what is wrong, 130: interrupted)."""
    args = build_parser().parse_args(argv)
    try:
        return _COMMANDS[args.command](args)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        if not _is_expected(error):
            raise
        print(f"emo prep {args.command}: {error}", file=sys.stderr)
        return 1


def _is_expected(error: Exception) -> bool:
    """Errors that speak to the user; anything else is a bug and keeps its traceback."""
    from data_prep.client import CallError
    from data_prep.config import ConfigError
    from data_prep.export import ExportError
    from data_prep.group_commit import LedgerError
    from data_prep.simulated_replies import SimulationError
    from data_prep.sources import SourceError
    from data_prep.store import StoreError
    from emo_lightning.schema import SchemaError

    known = (CallError, ConfigError, ExportError, LedgerError, SimulationError, SourceError, StoreError, SchemaError)
    return isinstance(error, known)


def _import(args: argparse.Namespace) -> int:
    from pathlib import Path

    from data_prep.sources import open_source
    from data_prep.store import ImportReport, Store

    source = open_source(args.source, licence=args.licence, source_name=args.name)
    with Store(args.into, write=True) as store, _progress() as progress:
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


def _annotate(args: argparse.Namespace) -> int:
    import asyncio

    from data_prep.config import NANO, ConfigError, PrepConfig, load_prices
    from data_prep.grounding import ground
    from data_prep.pipeline import annotate
    from data_prep.store import Store

    config = PrepConfig.load(args.config)
    if args.base_url:
        config = config.at(args.base_url, config.critic.api_key_env)
    if args.check:
        missing = sorted({e.model for e in config.endpoints} - set(load_prices(config.prices)))
        if missing:
            raise ConfigError(f"{config.prices}: no price for {', '.join(missing)}")
        for endpoint in config.endpoints:
            endpoint.api_key()
        print(f"{args.config}: configuration, prices and keys are there")
        return 0
    with Store(args.store, write=True) as store, _progress() as progress:
        task = progress.add_task("annotate", total=sum(store.ledger.outcome_counts().values()))

        def on_progress(report: PassReport) -> None:
            done = report.done_before + report.outcomes.total() + report.pending.total()
            rate = (report.outcomes.total() + report.pending.total()) / max(report.seconds, 1e-3)
            cost = f"${report.tally.cost_nano / NANO:.4f}"
            progress.update(task, completed=done, description=f"annotate: {cost}, {rate:.1f} images/s")

        report = asyncio.run(annotate(store, config, resend_unknown=args.resend_unknown, on_progress=on_progress))
        if not report.stopped and not args.no_ground:
            task = progress.add_task("ground", total=None)
            grounded = ground(store, config.grounding, lambda: progress.update(task, advance=1))
        else:
            grounded = None
        _print_report(report)
        if grounded:
            print("grounding: " + ", ".join(f"{name} {n}" for name, n in sorted(grounded.items())))
    return 130 if report.stopped else 0


def _print_report(report: PassReport) -> None:
    from data_prep.config import NANO

    tally = report.tally
    print(f"{report.total} images, {report.done_before} done before, {report.revised} of this run after revision")
    print("outcomes: " + (", ".join(f"{state} {n}" for state, n in sorted(report.outcomes.items())) or "none"))
    print(f"requests {tally.requests}, answered from the ledger {tally.cached}, replies off the schema {tally.invalid}")
    if tally.statuses:
        print("HTTP: " + ", ".join(f"{n} × {status}" for status, n in sorted(tally.statuses.items())))
    if report.pending:
        print("left for another run: " + ", ".join(f"{kind} {n}" for kind, n in sorted(report.pending.items())))
    if report.recovered or tally.unknown or report.pending.get("unknown"):
        print(
            f"calls of unknown outcome: {report.recovered} of an earlier run, {tally.unknown} of this one; "
            "--resend-unknown sends them again (they may be paid twice)"
        )
    print(f"cost of this run ${tally.cost_nano / NANO:.6f}, {report.seconds:.1f} s")
    if report.stopped:
        print("stopped; run the same command again to go on")


def _export(args: argparse.Namespace) -> int:
    from data_prep.config import PrepConfig
    from data_prep.export import export_store
    from data_prep.store import Store

    shares = PrepConfig.load(args.config).splits if args.config else None
    with Store(args.store, write=False) as store:
        manifest = export_store(store, args.out, args.name, samples_per_shard=args.samples_per_shard, shares=shares)
    _print_manifest(args.out, manifest)
    return 0


def _print_manifest(out: str, manifest: dict[str, Any]) -> None:
    counts = ", ".join(f"{split} {n}" for split, n in manifest["counts"].items())
    print(f"{out}: {len(manifest['shards'])} shards ({counts})")
    if manifest["excluded"]:
        print("left out: " + ", ".join(f"{state} {n}" for state, n in manifest["excluded"].items()))


def _status(args: argparse.Namespace) -> int:
    import json

    from data_prep.config import NANO
    from data_prep.store import Store

    with Store(args.store, write=False) as store:
        outcomes, calls, cost = store.ledger.outcome_counts(), store.ledger.call_totals(), store.ledger.total_cost()
    if args.json:
        keys = ("annotator", "state", "calls", "nano_dollars", "without_usage")
        print(
            json.dumps(
                {"outcomes": outcomes, "calls": [dict(zip(keys, row, strict=True)) for row in calls], "nano_dollars": cost}
            )
        )
        return 0
    print("images: " + ", ".join(f"{state} {n}" for state, n in outcomes.items()))
    for annotator, state, count, nano, without in calls:
        note = f"  ({without} replies named no usage: their cost is not known)" if without else ""
        print(f"  {annotator:12} {state:9} {count:8}  ${nano / NANO:.6f}{note}")
    print(f"cost ${cost / NANO:.6f}")
    return 0


def _world(args: argparse.Namespace) -> int:
    from data_prep.config import WorldConfig
    from data_prep.sources import SourceError
    from data_prep.sources.world import SPLITS
    from data_prep.sources.world_tars import write_world_tars

    if args.split not in SPLITS or args.count < 1:
        raise SourceError(f"--split {args.split} --count {args.count}: allowed are {', '.join(SPLITS)} and counts from 1")
    manifest = write_world_tars(args.out, WorldConfig(seed=args.seed), {args.split: args.count}, args.labels)
    _print_manifest(args.out, manifest)
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from data_prep.config import PrepConfig
    from data_prep.simulate import run_server, store_truth

    config = PrepConfig.load(args.config)
    run_server(store_truth(args.store, config), config, port=args.port, child=False)
    return 0


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    # On standard error, so that reports can be piped; in a log file a bar is noise.
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


_COMMANDS = {
    "import": _import,
    "annotate": _annotate,
    "export": _export,
    "status": _status,
    "world": _world,
    "simulate": _simulate,
}
