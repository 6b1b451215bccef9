"""`emo prep status`: what is in a store: outcomes, calls, cost."""

from __future__ import annotations

from data_prep.commands.console import new_parser


def main(argv: list[str]) -> int:
    """What is in a store: outcomes, calls, cost."""
    parser = new_parser("status", "What is in a store: outcomes, calls, cost.", "emo prep status store --json")
    parser.add_argument("store")
    parser.add_argument("--json", action="store_true", help="for programs")
    args = parser.parse_args(argv)
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
