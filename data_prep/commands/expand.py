"""`emo prep expand`: search queries and generated images from the triplets of a store."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from data_prep.commands.console import (
    add_address_arguments,
    add_budget_argument,
    add_config_argument,
    add_resend_argument,
    add_store_argument,
    new_parser,
    say_spent_budget,
    wrapped,
)
from data_prep.provider.budget import NANO_PER_DOLLAR, budget_nano
from data_prep.provider.failures import exit_status
from data_prep.settings import CONFIGS, ConfigError
from emo_lightning.core.errors import add_debug_option
from emo_lightning.core.options import ALWAYS, Parser, Whole, output_path
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from data_prep.expand.config import ExpandConfig
    from data_prep.expand.images import GenerationReport
    from data_prep.expand.plan import Plan, Planned
    from data_prep.expand.queries import QueryReport

_EXIT = (
    "Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 3 the budget was reached, 4 something is left for another run "
    "(an endpoint gave up, or the outcome of a call is unknown), 130 interrupted."
)
_QUERIES = (
    "Write search queries, one for each triplet, as JSON lines. With a `url` added to a line, `emo prep import urls` reads it. A chat "
    "model writes the texts; each is paid once.\n\n" + _EXIT
)
_IMAGES = (
    "Have an image model draw new combinations of known triplets, and import the images into the store. They carry no label: annotate "
    "them like all others. What is planned is written down first, so that an interrupted run goes on with the same command.\n\n"
    + _EXIT
)
_MODEL = "queries that a model writes (without --no-llm)"
_SHOWN = 3
"""Prompts or queries shown of a plan."""


def main(argv: list[str]) -> int:
    """Search queries and generated images from the triplets of a store."""
    args = _parser().parse_args(argv)
    if args.what == "queries":
        args.parser.refuse_unused(argv[1:], *([] if args.no_llm else [_MODEL]))
    from data_prep.expand.config import ExpandConfig

    config = ExpandConfig.load(args.config)
    if args.base_url is not None:
        config = config.at(args.base_url)
    if args.allow_http:
        config = config.allowing_http()
    limit = budget_nano(args.budget) if args.budget is not None else None
    return _queries(args, config, limit) if args.what == "queries" else _images(args, config, limit)


def _parser() -> Parser:
    text = (
        "Make a data set grow from its own triplets, rare emotions first: `queries` writes texts for an image search, `images` has an "
        "image model draw new combinations."
    )
    examples = {
        "queries": "emo prep expand queries store --out queries.jsonl --count 500",
        "images": "emo prep expand images store --count 1000 --dry-run",
    }
    parser = new_parser("expand", text, "\n  ".join(examples.values()))
    what = parser.add_subparsers(dest="what", required=True, metavar="{queries,images}")
    queries = what.add_parser("queries", help="write search queries as JSON lines", description=wrapped(_QUERIES))
    images = what.add_parser(
        "images",
        help="generate images of new compositions into the store",
        description=wrapped(_IMAGES),
    )
    for name, command in (("queries", queries), ("images", images)):
        command.epilog = f"example:\n  {examples[name]}"
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        add_debug_option(command)
        add_store_argument(command)
        add_config_argument(command, CONFIGS / "expand.yaml", "YAML of the expansion")
        command.add_argument("--seed", type=Whole(), default=0, metavar="N", help="seed of what is drawn (default: 0)")
        add_address_arguments(command)
        add_budget_argument(command)
        add_resend_argument(command)
    queries.add_argument("--out", type=output_path, required=True, metavar="FILE", help="file to write, JSON lines")
    queries.add_argument("--count", type=Whole(1), required=True, metavar="N", help="number of queries")
    queries.add_argument(
        "--no-llm", action="store_true", help="fill a template instead of asking a model: free, and the same every time"
    )
    images.add_argument(
        "--count",
        type=Whole(1),
        required=True,
        metavar="N",
        help="number of images of this seed, those of earlier runs included",
    )
    queries.modes(
        {ALWAYS: ("config", "seed", "out", "count", "no_llm"), _MODEL: ("base_url", "allow_http", "budget", "resend_unknown")}
    )
    queries.set_defaults(parser=queries)
    images.add_argument("--dry-run", action="store_true", help="print the plan and its cost, then stop; nothing is written")
    return parser


def _images(args: argparse.Namespace, config: ExpandConfig, limit: int | None) -> int:
    import asyncio

    from data_prep.annotate.estimate import price_source
    from data_prep.expand.config import image_price
    from data_prep.expand.images import generate
    from data_prep.expand.plan import make_plan, save_plan
    from data_prep.store.rehearsal import refuse_rehearsal
    from data_prep.store.store import Store

    price = image_price(config.prices, config.images.model)
    with Store(args.store, write=not args.dry_run, create=False) as store:
        refuse_rehearsal(store.ledger, "no image is generated from it")
        plan = make_plan(store.ledger, config, args.count, args.seed)
        _print_plan(plan, price.per_image, store.ledger.total_cost(), by_tokens=price.by_tokens)
        say(price_source(config.prices))
        if not plan.rows:
            msg = (
                f"{args.store}: no composition can be made; its valid records hold too few triplets with an emotion "
                "(`emo prep annotate` makes them)"
            )
            raise ConfigError(msg)
        if args.dry_run:
            return 0
        say_spent_budget(store.ledger.total_cost(), limit)
        config.images.api_key()
        save_plan(store.ledger, plan)
        todo = sum(row.state is None for row in plan.rows)
        with progress_bars() as progress:
            task = progress.add_task("images", total=todo)

            def on_progress(report: GenerationReport) -> None:
                done = report.done.total() + report.open.total()
                cost, rate = report.tally.cost_nano / NANO_PER_DOLLAR, done / max(report.seconds, 1e-3)
                progress.update(task, completed=done, description=f"images: ${cost:.4f}, {rate:.2f}/s")

            report = asyncio.run(
                generate(
                    store,
                    plan,
                    config,
                    price,
                    limit_nano=limit,
                    resend_unknown=args.resend_unknown,
                    on_progress=on_progress,
                )
            )
        total = store.ledger.total_cost()
    _print_images(report, total, limit)
    return exit_status(stopped=report.stopped, by_budget=report.by_budget, left=report.open)


def _print_plan(plan: Plan, per_image: int, paid: int, *, by_tokens: bool) -> None:
    from data_prep.expand.plan import plan_table

    say(f"{'emotion':12} {'valid':>7} {'made':>7} {'to make':>8} {'share':>8} {'after*':>8}")
    for emotion, valid, made, new, before, after in plan_table(plan):
        say(f"{emotion:12} {valid:7} {made:7} {new:8} {before:7.1f}% {after:7.1f}%")
    todo = [row for row in plan.rows if row.state is None]
    say("* if every image is found valid and evokes what was intended; the label comes from the annotators")
    finished = len(plan.rows) - len(todo)
    say(f"{len(todo)} images to make ({plan.new} newly planned, {finished} of {len(plan.rows)} finished before)")
    if len(plan.rows) < plan.wanted:
        say(f"{plan.wanted - len(plan.rows)} fewer than wanted: the triplets give no more new compositions")
    bound = "at most " if by_tokens else ""
    say(f"cost {bound}${len(todo) * per_image / NANO_PER_DOLLAR:.6f}; spent on this store so far ${paid / NANO_PER_DOLLAR:.6f}")
    for row in todo[:_SHOWN]:
        say(f"  {_shown(row)}")


def _shown(row: Planned) -> str:
    changes = ", ".join(f"{part}: {words['from']} → {words['to']}" for part, words in row.lineage["replaced"].items())
    new = f"; new pairs {', '.join(row.lineage['novel_edges'])}" if row.lineage["novel_edges"] else ""
    return f"{row.prompt}  [{changes}{new}]"


def _print_images(report: GenerationReport, total: int, limit: int | None) -> None:
    tally = report.tally
    done = ", ".join(f"{state} {n}" for state, n in sorted(report.done.items())) or "none"
    say(f"of this run: {done}; requests {tally.requests}, answered from the ledger {tally.cached}")
    if tally.statuses:
        say("HTTP: " + ", ".join(f"{n} × {status}" for status, n in sorted(tally.statuses.items())))
    if report.open:
        say("left for another run: " + ", ".join(f"{kind} {n}" for kind, n in sorted(report.open.items())))
    if report.recovered or report.open.get("unknown"):
        say(
            f"calls of unknown outcome: {report.recovered} left by an earlier run, {tally.unknown} of this one; "
            "--resend-unknown sends them again (they may be paid twice)"
        )
    say(
        f"cost of this run ${tally.cost_nano / NANO_PER_DOLLAR:.6f}, of the store ${total / NANO_PER_DOLLAR:.6f}, {report.seconds:.1f} s"
    )
    if report.by_budget and limit is not None:
        say(f"stopped before the budget of ${limit / NANO_PER_DOLLAR:.6f} was passed")
    elif report.stopped:
        say("stopped; run the same command again to go on")
    if report.done.get("imported"):
        say("the images carry no label yet: `emo prep annotate` gives them one")


def _queries(args: argparse.Namespace, config: ExpandConfig, limit: int | None) -> int:
    import asyncio

    from data_prep.expand.plan import valid_records
    from data_prep.expand.queries import TextCaller, choose, template_queries, written_queries
    from data_prep.stats.graph import TripletGraph
    from data_prep.store.store import Store

    with Store(args.store, write=not args.no_llm, create=False) as store:
        graph = TripletGraph.from_records(r for r in valid_records(store.ledger) if r.source != config.source)
        chosen = choose(graph, args.count, seed=args.seed, temperature=config.temperature)
        if not chosen:
            msg = f"{args.store}: no valid record has a triplet and an emotion; run `emo prep annotate` first"
            raise ConfigError(msg)
        if args.no_llm:
            return _finish_queries(args.out, template_queries(graph, chosen), len(chosen), args.count)
        endpoint = config.queries
        if endpoint is None:
            msg = f"{args.config}: key 'queries' names no chat model; add one, or use --no-llm"
            raise ConfigError(msg)

        async def write() -> tuple[QueryReport, int]:
            from data_prep.expand.config import text_prices

            caller = TextCaller(
                store.ledger, text_prices(config), [endpoint], resend_unknown=args.resend_unknown, limit_nano=limit
            )
            with progress_bars() as progress:
                task = progress.add_task("queries", total=len(chosen))
                report = await written_queries(
                    caller,
                    endpoint,
                    graph,
                    chosen,
                    max_invalid=config.max_invalid,
                    on_progress=lambda: progress.update(task, advance=1),
                )
            await caller.close()
            tally = caller.tally
            say(
                f"requests {tally.requests}, answered from the ledger {tally.cached}, cost ${tally.cost_nano / NANO_PER_DOLLAR:.6f}"
            )
            for how in sorted(tally.adapted):
                say(how)
            return report, tally.unknown

        say_spent_budget(store.ledger.total_cost(), limit)
        store.ledger.recover()
        report, _ = asyncio.run(write())
    return _finish_queries(args.out, report, len(chosen), args.count)


def _finish_queries(out: str, report: QueryReport, chosen: int, wanted: int) -> int:
    from data_prep.expand.queries import write_queries

    write_queries(out, report.queries)
    say(f"{out}: {len(report.queries)} queries")
    if chosen < wanted:
        say(f"{wanted - chosen} fewer than wanted: the store has no more triplets")
    if report.repeated:
        say(f"{report.repeated} triplets gave a query that another one gave already")
    if report.failed:
        say("without a query: " + ", ".join(f"{kind} {n}" for kind, n in sorted(report.failed.items())))
    for query in report.queries[:_SHOWN]:
        say(f"  {query.text}")
    if report.by_budget:
        say("stopped before the budget was passed")
    elif report.stopped:
        say("stopped; run the same command again to go on")
    return exit_status(stopped=report.stopped, by_budget=report.by_budget, left=report.failed)
