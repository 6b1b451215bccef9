"""`python -m tests.fuzz [--inputs N] [--seed S] [--only NAME]`: every reader against N spoilt inputs; the exit code is 1 where one fails.

With `--cost`: against inputs that claim much; 1 where one of at most 10 MB takes more than 512 MB or 10 s of processor.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.cost import print_costs
from tests.fuzz.run import run
from tests.fuzz.targets import TARGETS


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=2000, help="for each reader; slow ones get fewer (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    parser.add_argument("--only", default="", help="readers with this in their name (default: all)")
    parser.add_argument("--cost", action="store_true", help="what inputs that claim much cost, each in a process of its own")
    args = parser.parse_args()
    if args.cost:
        return print_costs(args.only)
    failed = 0
    print(f"{'reader':<25}{'inputs':>8}{'taken':>8}{'refused':>9}{'foreign':>9}{'slowest s':>11}{'all s':>8}")
    for name, make in TARGETS.items():
        if args.only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            target = make(Path(folder))
            began = time.perf_counter()
            found = run(target, args.inputs, args.seed)
        inputs = found.taken + found.refused + len(found.foreign)
        counts = f"{inputs:>8,}{found.taken:>8,}{found.refused:>9,}{len(found.foreign):>9,}{found.slowest:>11.2f}"
        print(f"{name:<25}{counts}{time.perf_counter() - began:>8.1f}", flush=True)
        for number, error in found.foreign[:3]:
            print(f"    input {number}: {error}")
        failed += len(found.foreign)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
