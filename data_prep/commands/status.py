"""`emo prep status`: what is in a store: outcomes, calls, cost."""

from __future__ import annotations

from data_prep.commands.console import add_json_argument, add_store_argument, new_parser
from emo_lightning.core.terminal import say, say_json


def main(argv: list[str]) -> int:
    """What is in a store: outcomes, calls, cost."""
    parser = new_parser(
        "status",
        "Print what is in a store: images by outcome, calls by annotator and state, open batches, and cost. It answers at once, also while "
        "a pass runs.",
        "emo prep status store",
    )
    add_store_argument(parser)
    add_json_argument(parser)
    args = parser.parse_args(argv)
    from pathlib import Path

    from data_prep.provider.budget import NANO_PER_DOLLAR
    from data_prep.store.group_commit import ledger_errors

    # Not `Store`: this command answers at once, however large the store is, and loads nothing that it does not need.
    from data_prep.store.ledger import Ledger
    from data_prep.store.rehearsal import is_rehearsal

    ledger = Ledger(Path(args.store) / "ledger.sqlite", write=False)
    query = "SELECT endpoint, remote_status, requests, remote_id FROM batches WHERE state != 'ended' ORDER BY id"
    lost = "SELECT endpoint, requests, remote_id, error FROM batches WHERE state = 'ended' AND error LIKE 'lost%' ORDER BY id"
    with ledger_errors(ledger.path):
        rehearsal = is_rehearsal(ledger)
        outcomes, calls, cost, waiting = ledger.outcome_counts(), ledger.call_totals(), ledger.total_cost(), ledger.open_calls()
        batches, lost_batches = ledger.read(query), ledger.read(lost)
    ledger.close()
    if args.json:
        keys = ("annotator", "state", "calls", "nano_dollars", "without_usage")
        open_keys = ("calls", "at_most_nano_dollars", "without_bound")
        say_json(
            {
                "rehearsal": rehearsal,
                "outcomes": outcomes,
                "calls": [dict(zip(keys, row, strict=True)) for row in calls],
                "nano_dollars": cost,
                "open": {state: dict(zip(open_keys, row, strict=True)) for state, row in waiting.items()},
                "batches": [dict(zip(("endpoint", "status", "requests", "id"), row, strict=True)) for row in batches],
                "lost_batches": [dict(zip(("endpoint", "requests", "id", "why"), row, strict=True)) for row in lost_batches],
            }
        )
        return 0
    if rehearsal:
        say(
            "a rehearsal: all answers are made up, and nothing was paid; the costs are what they would have been at list prices"
        )
    say("images: " + ", ".join(f"{state} {n}" for state, n in outcomes.items()))
    for annotator, state, count, nano, without in calls:
        note = f"  ({without} replies named no usage: counted at the most that they can cost)" if without else ""
        say(f"  {annotator:12} {state:9} {count:8}  ${nano / NANO_PER_DOLLAR:.6f}{note}")
    for endpoint, status, requests, name in batches:
        say(f"  batch of {endpoint}: {requests} requests, {status or 'not sent yet'} ({name or 'no id yet'})")
    for endpoint, requests, name, why in lost_batches:
        say(f"  batch of {endpoint}: {requests} requests, {name or 'no id'}: {why}")
    say(f"cost ${cost / NANO_PER_DOLLAR:.6f}")
    meaning = {
        "unknown": "of unknown outcome",
        "batched": "in batches",
        "intent": "in flight, or left by a run that was killed",
    }
    for state, (count, upper, unbounded) in waiting.items():
        note = f" ({unbounded} of them without a limit)" if unbounded else ""
        say(f"beside it, calls {meaning[state]}: {count}, at most ${upper / NANO_PER_DOLLAR:.6f}{note}")
    return 0
