"""`emo prep annotate`: annotate, cross-verify, criticise and ground what has no outcome yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data_prep.commands.console import new_parser, progress_bars
from data_prep.config import CONFIGS, NANO

if TYPE_CHECKING:
    from data_prep.pipeline import PassReport


def main(argv: list[str]) -> int:
    """Annotate, cross-verify, criticise and ground what has no outcome yet."""
    parser = new_parser(
        "annotate",
        "Annotate, cross-verify, criticise and ground what has no outcome yet.",
        "emo prep annotate store --config configs/prep/default.yaml",
    )
    parser.add_argument("store")
    parser.add_argument(
        "--config", default=CONFIGS / "default.yaml", help="YAML of the pass (default: our configs/prep/default.yaml)"
    )
    parser.add_argument("--base-url", help="send everything to this endpoint instead, e.g. that of `emo prep simulate`")
    parser.add_argument(
        "--resend-unknown", action="store_true", help="send calls of unknown outcome again; they may be paid twice"
    )
    parser.add_argument("--no-ground", action="store_true", help="leave out grounding")
    parser.add_argument("--check", action="store_true", help="check configuration, prices and keys, then stop")
    args = parser.parse_args(argv)
    import asyncio

    from data_prep.config import ConfigError, PrepConfig, load_prices
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
    with Store(args.store, write=True) as store, progress_bars() as progress:
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
