"""`emo prep table3`: what cross-verification and critic are worth, and what the critic notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.commands.console import (
    add_address_arguments,
    add_budget_argument,
    add_config_argument,
    add_json_argument,
    add_store_argument,
    new_parser,
    say_spent_budget,
)
from emo_lightning.core.options import Whole, output_path
from emo_lightning.core.terminal import say, say_json

if TYPE_CHECKING:
    from pathlib import Path

    from data_prep.demo.config import DemoConfig
    from data_prep.stats.references import CriticReference
    from data_prep.store.store import Store


def main(argv: list[str]) -> int:
    """Print Table 3."""
    from data_prep.provider.budget import NANO_PER_DOLLAR
    from data_prep.settings import CONFIGS

    parser = new_parser(
        "table3",
        "Print Table 3 on a sample of an annotated store: accuracy with and without cross-verification and critic, how many right "
        "annotations the critic keeps, and how many wrong ones it notices. Replies that the store has are used; the critic is asked about "
        "eight more questions for each image, each paid once.\n\n"
        "Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 3 the budget was reached, 4 questions are left for "
        "another run (an endpoint gave up, or the outcome of a call is unknown), 130 interrupted.",
        "emo prep table3 store --config configs/prep/default.yaml --samples 200 --budget 5",
    )
    add_store_argument(parser)
    add_config_argument(parser, CONFIGS / "default.yaml", "YAML of the pass that annotated the store")
    add_address_arguments(parser)
    parser.add_argument(
        "--samples",
        type=Whole(),
        default=200,
        metavar="N",
        help="number of images, chosen by the seed; 0 takes all (default: 200)",
    )
    parser.add_argument(
        "--seed", type=Whole(), default=0, metavar="N", help="seed of the sample and of the wrong annotations (default: 0)"
    )
    parser.add_argument(
        "--reference",
        default="auto",
        metavar="KIND|PATH",
        help="what counts as right: `truth` (of the drawn world), `reviews` (by `emo prep review`), a path (tars or a store of records "
        "that are right), or `none` (then only recall is computed); `auto` is truth if the configuration has a world, else reviews "
        "(default: auto)",
    )
    add_budget_argument(parser)
    add_json_argument(parser)
    parser.add_argument(
        "--out",
        type=output_path,
        metavar="DIR",
        help="also write table3.json, .md, .tex and .csv into this directory, and table3-severity.tex and .csv",
    )
    args = parser.parse_args(argv)
    import asyncio
    import json

    from data_prep.demo.config import DemoConfig
    from data_prep.provider.budget import budget_nano
    from data_prep.provider.failures import exit_status
    from data_prep.stats.table3 import table3
    from data_prep.stats.table3_tables import table3_notes, table3_tables
    from data_prep.store.store import Store
    from emo_lightning.core.files import write_text
    from emo_lightning.core.tables.files import write_beside
    from emo_lightning.core.tables.terminal import show

    config = DemoConfig.load(args.config)
    if args.base_url is not None:
        config = config.at(args.base_url, config.critic.api_key_env)
    if args.allow_http:
        config = config.allowing_http()
    limit = budget_nano(args.budget) if args.budget is not None else None
    with Store(args.store, write=True, create=False) as store:
        say_spent_budget(store.ledger.total_cost(), limit)
        references = _references(args.reference, store, config)
        found = asyncio.run(table3(store, config, references, samples=args.samples, seed=args.seed, limit_nano=limit)).as_json()
    tables, notes = table3_tables(found), table3_notes(found)
    if args.out:
        out = args.out
        write_text(out / "table3.json", json.dumps(found, indent=1) + "\n")
        write_beside(out, "table3", tables, notes)
    if args.json:
        say_json(found)
    else:
        show(tables)
        for note in notes:
            say(note)
        cost = f"${found['nano_dollars'] / NANO_PER_DOLLAR:.6f}"
        say(f"requests {found['requests']}, answered from the ledger {found['cached']}, cost of this run {cost}")
    left = set(found["unanswered"]) - {"not corrupted"}
    return exit_status(stopped=bool(left & {"budget", "stopped"}), by_budget="budget" in left, left=left)


def _references(kind: str, store: Store, config: DemoConfig) -> dict[str, CriticReference]:
    """What is right, by item id; empty for `none`."""
    from data_prep.stats.references import CriticReference
    from data_prep.stats.table3 import Table3Error

    if kind == "auto":
        kind = "truth" if config.world is not None else "reviews"
    match kind:
        case "none":
            return {}
        case "truth":
            from data_prep.demo.simulation.serve import store_truth

            found = {record.id: CriticReference.of_truth(record) for record in store_truth(store.root, config)}
        case "reviews":
            found = _reviewed(store)
        case path:
            from data_prep.export.read import read_records

            found = {record.id: CriticReference.of_truth(record) for record in read_records([path])}
    if not found:
        msg = f"--reference {kind}: nothing is known to be right; review some (`emo prep review`), or use none"
        raise Table3Error(msg)
    return found


def _reviewed(store: Store) -> dict[str, CriticReference]:
    from data_prep.review.decisions import Review
    from data_prep.review.log import read_reviews
    from data_prep.stats.references import CriticReference
    from emo_lightning.core.records import Record

    rows: dict[str, list[Review]] = {}
    path: Path = store.ledger.path
    for row in read_reviews(path):
        rows.setdefault(row.item_id, []).append(row)
    return {
        item.id: CriticReference.of_reviews(Record.from_json(outcome.record, f"outcome of {item.id}"), rows[item.id])
        for item, outcome in store.ledger.outcomes()
        if item.id in rows
    }
