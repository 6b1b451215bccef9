"""`emo prep annotate`: annotate, cross-verify, criticise and ground what has no outcome yet."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from data_prep.commands.console import (
    add_address_arguments,
    add_budget_argument,
    add_config_argument,
    add_engine_arguments,
    add_resend_argument,
    add_store_argument,
    new_parser,
)
from data_prep.provider.budget import NANO_PER_DOLLAR
from emo_lightning.core.options import ALWAYS, Parser
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import on_a_terminal, say

if TYPE_CHECKING:
    from rich.progress import Progress

    from data_prep.annotate.pipeline import PassReport
    from data_prep.config import PrepConfig
    from data_prep.demo.config import DemoConfig
    from data_prep.engine import Engine
    from data_prep.store.store import Store

_PASS, _CANCELLING, _REHEARSAL = "a pass", "the end of batches (--cancel-batches)", "a rehearsal (--rehearse)"
_MODES = {
    ALWAYS: ("config",),
    _REHEARSAL: ("rehearse",),
    _PASS: (
        *("base_url", "allow_http", "yes"),
        *("budget", "estimate", "batch", "resend_unknown", "no_ground", "check"),
        *("engine", "ray_address", "ray_without_token"),
    ),
    _CANCELLING: ("cancel_batches", "base_url", "allow_http", "yes"),
}
_LOG_SECONDS = 60.0
"""Between two lines of progress where there is no terminal."""


def _parser() -> Parser:
    from data_prep.settings import CONFIGS

    parser = new_parser(
        "annotate",
        "Annotate every image that has no outcome yet: several models annotate it, their votes are pooled, a critic checks the result, "
        "and the subject is grounded in the image. Replies are kept and paid once: an interrupted run goes on with the same command.\n\n"
        "An estimate of the cost is printed first. On a terminal you confirm it; elsewhere (cron, a job) the pass starts at once.\n\n"
        "Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 3 the budget was reached, 4 images are left for another "
        "run (an endpoint gave up, or the outcome of a call is unknown), 130 interrupted.",
        "emo prep annotate store --config configs/prep/default.yaml --budget 50",
    )
    add_store_argument(parser)
    add_config_argument(parser, CONFIGS / "default.yaml")
    add_address_arguments(parser)
    add_budget_argument(parser)
    parser.add_argument(
        "--estimate", action="store_true", help="print how many requests are left and what they will cost, then stop"
    )
    parser.add_argument("--yes", action="store_true", help="start without asking for confirmation")
    parser.add_argument(
        "--batch",
        action="store_true",
        help="send the requests of endpoints with `batch: true` through the provider's Batch API",
    )
    parser.add_argument(
        "--cancel-batches",
        action="store_true",
        help="cancel open batches, keep the replies that they already have (they are paid), then stop",
    )
    add_resend_argument(parser)
    parser.add_argument("--no-ground", action="store_true", help="do not look for boxes and masks of the subjects")
    parser.add_argument("--check", action="store_true", help="check the configuration, the prices and the API keys, then stop")
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run the whole pass on copies of the images in STORE-rehearsal, with answers that this machine makes up: nothing is sent, no "
        "key is needed, and the bill of the true pass is printed at the end",
    )
    add_engine_arguments(parser)
    parser.modes(_MODES)
    return parser


def main(argv: list[str]) -> int:
    """Annotate, cross-verify, criticise and ground what has no outcome yet."""
    args = (options := _parser()).parse_args(argv)
    options.refuse_unused(argv, _REHEARSAL if args.rehearse else _CANCELLING if args.cancel_batches else _PASS)
    import asyncio

    from data_prep.annotate.pipeline import annotate
    from data_prep.demo.config import DemoConfig
    from data_prep.engine import chosen_engine
    from data_prep.grounding import ground
    from data_prep.provider.budget import budget_nano
    from data_prep.provider.failures import CallError, exit_status
    from data_prep.store.store import Store

    config = DemoConfig.load(args.config)
    if args.rehearse:
        return _rehearse(args.store, config)
    limit = budget_nano(args.budget) if args.budget is not None else None
    if args.base_url is not None:
        config = config.at(args.base_url, config.critic.api_key_env)
    if args.allow_http:
        config = config.allowing_http()
    if args.check:
        return _check(config, args, bounded=limit is not None)
    if not args.estimate:
        config.check_keys()
    with Store(args.store, write=not args.estimate, create=False) as store:
        if not args.cancel_batches and not _agreed(store, config, limit, args):
            return 0
        with chosen_engine(args) as engine:
            ended: list[PassReport] = []
            try:
                with progress_bars() as bars:
                    _vote(store, config, bars, engine)
                    progress = _Progress(bars, sum(store.ledger.outcome_counts().values()) - len(store.ledger.duplicates()))
                    run = annotate(
                        store,
                        config,
                        resend_unknown=args.resend_unknown,
                        limit_nano=limit,
                        batch=args.batch,
                        cancel_batches=args.cancel_batches,
                        on_progress=progress,
                        on_end=ended.append,
                        engine=engine,
                    )
                    report = asyncio.run(run)
            except CallError as error:
                msg = f"{error}; all that was paid is kept, the same command goes on from here"
                raise CallError(msg) from None
            finally:
                # What was paid is said before anything else, whatever ends the pass, and before boxes are looked for.
                for one in ended:
                    _print_report(one, store, limit)
            if not report.stopped and not args.no_ground and not args.cancel_batches:
                with progress_bars() as bars:
                    task = bars.add_task("ground", total=None)
                    grounded = ground(store, config.grounding, lambda: bars.update(task, advance=1), engine)
                if grounded:
                    say("grounding: " + ", ".join(f"{name} {n}" for name, n in sorted(grounded.items())))
    return exit_status(stopped=report.stopped, by_budget=report.stopped_by_budget, left=report.pending)


def _rehearse(root: str, config: DemoConfig) -> int:
    """The whole pass with made-up answers, and what the true one would cost."""
    from pathlib import Path

    from data_prep.demo.rehearsal import rehearse

    with progress_bars() as bars:
        done = rehearse(Path(root), config, _Progress(bars, 0))
    tally = done.report.tally
    say(f"rehearsal in {done.store}: every answer was made up on this machine; nothing was sent, nothing was paid")
    say(f"{done.report.total} images, {done.report.done_before} done before, {done.report.revised} of this run after revision")
    say("outcomes: " + (", ".join(f"{state} {n}" for state, n in sorted(done.report.outcomes.items())) or "none"))
    say(f"requests {tally.requests}, answered from the ledger {tally.cached}, replies off the schema {tally.invalid}")
    say("grounding: " + (", ".join(f"{name} {n}" for name, n in sorted(done.grounded.items())) or "none"))
    for local in config.local:
        say(f"{local.name}, which runs on this machine, was left out")
    say(
        f"look at it: emo prep status {done.store}, emo prep review {done.store}; it is not exported, and nothing is paid for in it"
    )
    say("\nthe bill of the true pass:")
    say(done.bill.text())
    return 130 if done.report.stopped else 0


def _vote(store: Store, config: PrepConfig, bars: Progress, engine: Engine) -> None:
    """Local annotators first: their votes cost nothing, and the pass reads them from the ledger."""
    if not config.local:
        return
    from data_prep.emovit.votes import run_local_votes

    task = bars.add_task("local votes", total=None)
    run_local_votes(store, config, lambda images: bars.update(task, advance=images), engine)


def _check(config: PrepConfig, args: argparse.Namespace, *, bounded: bool) -> int:
    """All that would end the pass before its end, and what would keep boxes from being made after it."""
    from data_prep.annotate.item import pass_digest
    from data_prep.grounding import backend_key
    from data_prep.local_models.checkpoints import CheckpointError
    from data_prep.provider.caller import check_prices
    from data_prep.provider.prices import load_prices

    prices = load_prices(config.prices)
    check_prices(prices, config.endpoints, bounded=bounded)
    if args.batch:
        from data_prep.provider.batch.caller import check_batch_prices

        check_batch_prices(prices, config.endpoints)
    config.check_keys()
    # Reads the weights of local annotators.
    pass_digest(config)
    if config.grounding.backend != "none" and not args.no_ground:
        try:
            backend_key(config.grounding)
        except CheckpointError as error:
            say(f"note: boxes cannot be made here: {error}; `emo prep ground` makes them later")
    say(f"{args.config}: configuration, prices and keys are there")
    return 0


def _agreed(store: Store, config: PrepConfig, limit: int | None, args: argparse.Namespace) -> bool:
    """Print the estimate; whether to go on."""
    from data_prep.annotate.estimate import estimate

    expected = estimate(store, config, batch=args.batch)
    if expected.images or args.estimate:
        say(expected.text())
    if limit is not None and expected.paid_nano + expected.cost_nano > limit:
        say(f"the budget of ${limit / NANO_PER_DOLLAR:g} will stop the pass before its end")
    if args.estimate:
        return False
    if args.yes or expected.cost_nano == 0 or not (on_a_terminal(sys.stdin) and on_a_terminal(sys.stdout)):
        return True
    return input("send these requests? [y/N] ").strip().lower() in ("y", "yes")


class _Progress:
    """Cost, rate and time left: a bar on a terminal, a line a minute elsewhere."""

    def __init__(self, bars: Progress, total: int) -> None:
        self._bars, self._total = bars, total
        self._task = bars.add_task("annotate", total=total)
        self._next = time.monotonic() + _LOG_SECONDS

    def __call__(self, report: PassReport) -> None:
        ended = report.outcomes.total()
        done = report.done_before + ended
        rate = ended / max(report.seconds, 1e-3)
        text = f"${report.tally.cost_nano / NANO_PER_DOLLAR:.4f}, {rate:.1f} images/s"
        if report.waiting:
            text += f", {report.waiting} wait for batches"
        self._bars.update(self._task, completed=done, total=self._total or report.total, description=f"annotate: {text}")
        if self._bars.disable and time.monotonic() >= self._next:
            self._next = time.monotonic() + _LOG_SECONDS
            left = f"{(self._total - done) / rate / 60:.0f} min left" if rate else "time left unknown"
            say(f"annotate: {done} of {self._total}, {text}, {left}", file=sys.stderr, flush=True)


def _print_report(report: PassReport, store: Store, limit: int | None) -> None:
    tally = report.tally
    left_out = f", {report.duplicates} duplicates left out" if report.duplicates else ""
    say(f"{report.total} images{left_out}, {report.done_before} done before, {report.revised} of this run after revision")
    say("outcomes: " + (", ".join(f"{state} {n}" for state, n in sorted(report.outcomes.items())) or "none"))
    batched = f" ({tally.batched} in batches)" if tally.batched else ""
    say(f"requests {tally.requests}{batched}, answered from the ledger {tally.cached}, replies off the schema {tally.invalid}")
    if tally.statuses:
        say("HTTP: " + ", ".join(f"{n} × {status}" for status, n in sorted(tally.statuses.items())))
    for how, times in sorted(tally.adapted.items()):
        say(f"{how} ({times} answers said so)")
    for line in report.health.lines():
        say(line)
    if report.pending:
        say("left for another run: " + ", ".join(f"{kind} {n}" for kind, n in sorted(report.pending.items())))
    if report.recovered or tally.unknown or report.pending.get("unknown"):
        say(
            f"calls of unknown outcome: {report.recovered} of an earlier run, {tally.unknown} of this one; "
            "--resend-unknown sends them again (they may be paid twice)"
        )
    if tally.estimated:
        say(f"{tally.estimated} replies named no usage; they are counted at the most that they can cost")
    if tally.garbled:
        say(f"{tally.garbled} lines of batches' result files cannot be read; their requests count as of unknown outcome")
    for lost in tally.lost:
        say(f"lost, may have been paid: {lost}")
    for differs in tally.differs:
        say(f"counts and rows differ: {differs}")
    if tally.over_bound:
        say(f"{tally.over_bound} replies cost more than their bound: check `image` of their models in the price table")
    say(f"cost of this run ${tally.cost_nano / NANO_PER_DOLLAR:.6f}, {report.seconds:.1f} s")
    if limit is not None:
        say(f"budget ${limit / NANO_PER_DOLLAR:g}: ${store.ledger.total_cost() / NANO_PER_DOLLAR:.6f} of it is spent")
    if report.open_batches:
        say(f"{report.open_batches} batches are open; the same command takes their replies over")
    if report.stopped_by_budget:
        say("stopped: the next request might pass the budget; a larger one goes on where this one stopped")
    elif report.stopped:
        say("stopped; run the same command again to go on")
