"""What runs must survive, measured: ten goals, each by the product's own commands with tiny models that are made on the spot.

    python benchmarks/runs.py [--quick] [--only GOAL ...] [--json FILE] [--seed N]

A line says what was done, what was found, whether it holds, and where the fast half of it is a test. `ratio` is the share of lines that
hold. `--quick` takes minutes; the whole an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.run_goals import checkpoints, kills, order, reading, signals, tars
from benchmarks.run_goals.lines import Given, Line

GOALS: dict[str, Callable[[Given], Iterator[Line]]] = {
    "kills": kills.measure,
    "once": order.measure,
    "elastic": kills.elastic,
    "signals": signals.measure,
    "checkpoints": checkpoints.measure,
    "tars": tars.measure,
    "reading": reading.measure,
    "opening": tars.opening,
    "shuffle": order.shuffled,
    "caches": reading.caches,
}
"""In the order of their numbers."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few of each: minutes")
    parser.add_argument("--only", nargs="+", choices=GOALS, default=list(GOALS), metavar="GOAL", help=", ".join(GOALS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    # A shell starts what runs in the background deaf to Ctrl-C, and what is killed here would inherit that.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    os.environ |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    found: list[tuple[int, Line]] = []
    print("| # | goal | what | measured | holds | tested by |\n|---|---|---|---|---|---|", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emo-runs-") as folder:
        os.environ["EMO_CACHE"] = str(Path(folder) / "cache")
        for number, (name, measure) in enumerate(GOALS.items(), 1):
            if name not in given.only:
                continue
            for line in measure(Given(given.quick, Path(folder), given.seed)):
                found.append((number, line))
                said = line.found.replace("\n", " ").replace("|", "\\|")
                print(
                    f"| {number} | {name} | {line.what} | {said} | {'yes' if line.holds else '**no**'} | {line.test} |",
                    flush=True,
                )
    holds = sum(line.holds for _, line in found)
    print(f"\n{holds} of {len(found)} lines hold; {time.monotonic() - began:.0f} s")
    if given.json:
        lines = [{"goal": number, **line._asdict()} for number, line in found]
        given.json.write_text(json.dumps({"ratio": holds / len(found), "lines": lines}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
