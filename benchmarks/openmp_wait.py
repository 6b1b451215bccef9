"""A training step on a machine with one other busy process: OMP_WAIT_POLICY=PASSIVE (what `emo` sets) against the default.

    .venv/bin/python benchmarks/openmp_wait.py

Each setting runs in a fresh process, in turn, several times; the ratio of the medians is printed, alone and with a competitor.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

STEP = """
import time, torch
torch.manual_seed(0)
layers = [torch.nn.TransformerEncoderLayer(128, 4, 384, batch_first=True) for _ in range(5)]
model = torch.nn.Sequential(*layers)
data = torch.randn(16, 80, 128)
times = []
for _ in range(12):
    start = time.perf_counter()
    model(data).square().mean().backward()
    times.append(time.perf_counter() - start)
print(sorted(times[2:])[5])
"""


def median_step(policy: str | None, runs: int = 3) -> float:
    """Median seconds of a step over fresh processes."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if policy:
        environment["OMP_WAIT_POLICY"] = policy
    outputs = [
        subprocess.run([sys.executable, "-c", STEP], env=environment, capture_output=True, encoding="utf-8", check=True).stdout
        for _ in range(runs)
    ]
    return statistics.median(float(output) for output in outputs)


def main() -> None:
    """Print both ratios."""
    print(f"{os.cpu_count()} cores")
    for title, busy in (("alone", 0), ("beside one busy process", 1)):
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            spinning, sleeping = median_step(None), median_step("PASSIVE")
        finally:
            for other in others:
                other.kill()
        print(f"{title}: spinning {spinning * 1e3:.0f} ms, sleeping {sleeping * 1e3:.0f} ms, ratio {spinning / sleeping:.2f}")


if __name__ == "__main__":
    main()
