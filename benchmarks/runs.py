"""What runs must survive, measured: ten goals and eleven faults, by the product's own commands with tiny models that are made on the spot.

    python benchmarks/runs.py [--quick] [--only GOAL ...] [--json FILE] [--seed N]

A line says what was done, what was found, whether it holds, and where the fast half of it is a test. Lines that are nothing but tests come
last, out of one run of them. `ratio` is the share of lines that hold. `--quick` takes minutes; the whole an hour.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import command_line, write_json
from benchmarks.run_goals import checkpoints, faults, kills, order, reading, signals, tars
from benchmarks.run_goals.lines import Given, Line, Tested, run_tests

GOALS: dict[str, tuple[str, Callable[[Given], Iterator[Line | Tested]]]] = {
    "kills": ("1", kills.measure),
    "once": ("2", order.measure),
    "elastic": ("3", kills.elastic),
    "signals": ("4", signals.measure),
    "checkpoints": ("5", checkpoints.measure),
    "tars": ("6", tars.measure),
    "reading": ("7", reading.measure),
    "opening": ("8", tars.opening),
    "shuffle": ("9", order.shuffled),
    "caches": ("10", reading.caches),
    "storage": ("R10", faults.storage),
    "faults": ("R", faults.measure),
}
"""Name -> number, and how it is measured."""


def lines_of(given: Given, names: list[str]) -> Iterator[tuple[str, str, Line]]:
    """(number, name, line) of each line of some goals."""
    later: list[tuple[str, str, Tested]] = []
    for name, (number, measure) in GOALS.items():
        for line in measure(given) if name in names else ():
            if isinstance(line, Tested):
                later.append((line.goal or number, name, line))
            else:
                yield number, name, line
    if later:
        lines = run_tests([line for _, _, line in later])
        yield from ((number, name, line) for (number, name, _), line in zip(later, lines, strict=True))


def main() -> None:
    """Measure, and print a table."""
    parser = command_line(__doc__, "few of each: minutes")
    parser.add_argument("--only", nargs="+", choices=GOALS, default=list(GOALS), metavar="GOAL", help=", ".join(GOALS))
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    # A shell starts what runs in the background deaf to Ctrl-C, and what is killed here would inherit that.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    os.environ |= {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    found: list[tuple[str, Line]] = []
    print("| # | goal | what | measured | holds | tested by |\n|---|---|---|---|---|---|", flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emo-runs-") as folder:
        os.environ["EMO_CACHE"] = str(Path(folder) / "cache")
        for number, name, line in lines_of(Given(given.quick, Path(folder), given.seed), given.only):
            found.append((number, line))
            said = line.found.replace("\n", " ").replace("|", "\\|")
            holds = "yes" if line.holds else "**no**"
            print(f"| {number} | {name} | {line.what} | {said} | {holds} | {line.test} |", flush=True)
    whole = sum(line.holds for _, line in found)
    print(f"\n{whole} of {len(found)} lines hold; {time.monotonic() - began:.0f} s")
    lines = [{"goal": number, **line._asdict()} for number, line in found]
    write_json(given.json, "all lines", whole / len(found), {"lines": lines})


if __name__ == "__main__":
    main()
