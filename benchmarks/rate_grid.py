"""The adaptive rate over a grid of token buckets, in simulated time: share of what the bucket permits, and share of 429s.

Peer: requests paced evenly, which wait where Retry-After says so, at the best of ten rates at which at most 1 % are refused, for each
bucket that we miss. It knows what we have to find out, so where it stays below 95 % too, nobody without headers can do much better. One
line for each bucket in which we miss 95 % or 1 %, after a warm-up of a minute and twice the burst.

.venv/bin/python benchmarks/rate_grid.py [--retry-after milliseconds seconds none] [--rates 5 25 60 200] [--headers] [--quick] [--json FILE]
"""

from __future__ import annotations

import itertools
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import command_line, write_json
from data_prep.demo.simulation.config import SimulatedModel
from data_prep.demo.simulation.traffic import Paced, Traffic, drive

ROUND_TRIPS = (0.02, 0.2, 1.0)
BURSTS = (0.2, 1.0, 10.0, 60.0)
"""Seconds' worth."""
TOKENS = (500.0, 1500.0)
"""Of a request, where the bucket holds tokens: from, to."""
SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.94, 0.97, 1.0)
"""Of the permitted rate, that the peer tries."""


def paced(model: SimulatedModel, permitted: float, run: dict[str, Any]) -> Traffic:
    """The best that even pacing reaches."""
    best = Traffic(0.0, 0.0, 0)
    for share in SHARES:
        found = drive(model, controller=lambda clock, rate=share * permitted: Paced(clock, rate), **run)  # type: ignore[misc]
        best = found if found.refused <= 0.01 and found.share > best.share else best
    return best


def main() -> None:
    """All buckets."""
    parser = command_line(__doc__)
    parser.add_argument("--retry-after", nargs="+", default=["milliseconds", "seconds", "none"])
    parser.add_argument("--rates", nargs="+", type=float, default=[5.0, 25.0, 60.0, 200.0])
    parser.add_argument("--headers", action="store_true", help="answers carry x-ratelimit-* headers")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    if args.quick:
        args.retry_after, args.rates = ["none"], [5.0]
    shares: list[float] = []
    missed: list[dict[str, object]] = []
    grid = itertools.product(args.retry_after, args.rates, ROUND_TRIPS, BURSTS, ("requests", "tokens"), args.seeds)
    for retry_after, rate, round_trip, burst, kind, seed in grid:
        limits = {"requests_per_second": rate, "burst": max(1.0, rate * burst)}
        if kind == "tokens":
            limits = {"tokens_per_second": 1000 * rate, "token_burst": max(2 * TOKENS[1], 1000 * rate * burst)}
        model = SimulatedModel(role="full", retry_after=retry_after, rate_headers=args.headers, **limits)
        warm_up = 60 + 2 * burst
        run: dict[str, Any] = {
            "clients": max(64, int(2 * rate * round_trip)),
            "seconds": warm_up + 200,
            "warm_up": warm_up,
            "round_trip": round_trip,
            "seed": seed,
            "tokens": TOKENS if kind == "tokens" else (0.0, 0.0),
        }
        ours = drive(model, **run)
        shares.append(ours.share)
        if ours.share < 0.95 or ours.refused > 0.01:
            peer = paced(model, rate, run)
            bucket = f"{kind}, {rate:g}/s, {round_trip:g} s round trip, burst of {burst:g} s, Retry-After in {retry_after}"
            missed.append({"bucket": bucket, "share": ours.share, "refused": ours.refused, "paced": peer.share})
            print(
                f"{bucket}: {ours.share:.1%}, {ours.refused:.2%} refused; paced {peer.share:.1%}, {peer.refused:.2%}",
                flush=True,
            )
    print(f"{len(shares) - len(missed)} of {len(shares)} buckets: at least 95 % used and at most 1 % refused")
    write_json(args.json, "what the buckets permit", statistics.fmean(shares), {"buckets": len(shares), "missed": missed})


if __name__ == "__main__":
    main()
