"""A training step on a machine with one other busy process: OMP_WAIT_POLICY=PASSIVE (what `emo` sets) against the default.

    .venv/bin/python benchmarks/openmp_wait.py [--quick] [--json FILE]

Each setting runs in a fresh process, in turn, several times; the ratio of the medians is printed, alone and with a competitor.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import command_line, write_json

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


def median_step(policy: str | None, runs: int, steps: int) -> float:
    """Median seconds of a step over fresh processes."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    outputs = [
        subprocess.run(
            [sys.executable, "-c", STEP, str(steps)], env=environment, capture_output=True, encoding="utf-8", check=True
        ).stdout
        for _ in range(runs)
    ]
    return statistics.median(float(output) for output in outputs)


def main() -> None:
    """Print both ratios."""
    asked = command_line(__doc__, "one step of one process each: that it runs, not how fast").parse_args()
    runs, steps = (1, 1) if asked.quick else (3, 10)
    ratios: dict[str, float] = {}
    print(f"{os.cpu_count()} cores")
    for title, busy in (("alone", 0), ("beside one busy process", 1)):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            spinning, sleeping = median_step(None, runs, steps), median_step("PASSIVE", runs, steps)
        finally:
            for other in others:
                other.kill()
        print(f"{title}: spinning {spinning * 1e3:.0f} ms, sleeping {sleeping * 1e3:.0f} ms, ratio {spinning / sleeping:.2f}")
        ratios[title] = spinning / sleeping
    write_json(asked.json, "threads that spin", ratios["beside one busy process"], {"alone": ratios["alone"]})


if __name__ == "__main__":
    main()
