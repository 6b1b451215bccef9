"""A training step, alone and on a machine with one other busy process: threads that wait as `emo` has them (`wait_briefly`) against the default,
and against threads that sleep at once.

    .venv/bin/python benchmarks/openmp_wait.py [--quick] [--json FILE]

Each setting runs in a fresh process, in turn, several times; the ratios of the medians are printed.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import command_line, write_json
from emo_lightning.core.cores import BRIEF_WAIT

STEP = """
import sys, time, torch
steps = int(sys.argv[1])
torch.manual_seed(0)
layers = [torch.nn.TransformerEncoderLayer(128, 4, 384, batch_first=True) for _ in range(5)]
model = torch.nn.Sequential(*layers)
data = torch.randn(16, 80, 128)
times = []
for _ in range(2 + steps):
    start = time.perf_counter()
    model(data).square().mean().backward()
    times.append(time.perf_counter() - start)
print(sorted(times[2:])[(steps - 1) // 2])
"""


WAITS = {"spinning": {}, "asleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "brief": BRIEF_WAIT}
"""How threads wait -> variables of the environment."""


def step(waits: Mapping[str, str], steps: int) -> float:
    """Median seconds of a step in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if k not in BRIEF_WAIT} | dict(waits)
    ran = [sys.executable, "-c", STEP, str(steps)]
    return float(subprocess.run(ran, env=environment, capture_output=True, encoding="utf-8", check=True).stdout)


def main() -> None:
    """Print both ratios."""
    asked = command_line(__doc__, "one step of one process each: that it runs, not how fast").parse_args()
    runs, steps = (1, 1) if asked.quick else (5, 10)
    found: dict[str, dict[str, float]] = {}
    print(f"{os.cpu_count()} cores")
    for title, busy in (("alone", 0), ("beside one busy process", 1)):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            rounds = [{name: step(waits, steps) for name, waits in WAITS.items()} for _ in range(runs)]
        finally:
            for other in others:
                other.kill()
        took = {name: statistics.median(one[name] for one in rounds) for name in WAITS}
        found[title] = {name: seconds / took["brief"] for name, seconds in took.items()}
        said = ", ".join(f"{name} {seconds * 1e3:.0f} ms ({found[title][name]:.2f})" for name, seconds in took.items())
        print(f"{title}: {said}")
    write_json(asked.json, "threads that spin", found["beside one busy process"]["spinning"], {"times_of_brief": found})


if __name__ == "__main__":
    main()
