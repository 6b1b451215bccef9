"""Goal 4: whatever ends a process of a run ends all of them, soon, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.run_goals.lines import ROOT, Given, Line, tested
from benchmarks.run_goals.trainings import Setup, Training
from emo_lightning.core.checkpoints import check_content, read_checkpoint
from tests.patience import PATIENCE

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
TARGETS = ("command", "stage", "rank 1", "group")
"""The stage is rank 0; the group is that of the command, as a terminal and a batch system have it."""
GOAL = 10.0
"""Seconds."""


def measure(given: Given) -> Iterator[Line]:
    """The command with the ranks that Lightning starts, then light processes in its place."""
    cases = [(number, target) for number in SIGNALS for target in TARGETS]
    if given.quick:
        cases = [(signal.SIGTERM, "rank 1"), (signal.SIGINT, "group"), (signal.SIGHUP, "command"), (signal.SIGKILL, "stage")]
    wrong, slowest = [], 0.0
    rounds = given.count(2, 1)
    for round_ in range(rounds):
        for number, target in cases:
            seconds, fault = end(given.work, number, target, workers=2 * (round_ % 2))
            slowest = max(slowest, seconds)
            if fault:
                wrong.append(f"{number.name} to {target}: {fault}")
    count = rounds * len(cases)
    yield Line(
        "TERM, INT, HUP, KILL to command, stage (rank 0), rank 1, group of `emo run` on 2 ranks: all gone in 10 s, exit code ≠ 0, the newest "
        "checkpoint loads",
        "; ".join([f"{count - len(wrong)}/{count}, slowest {slowest:.1f} s", *wrong]),
        not wrong,
        "tests/experiment/test_supervision.py, test_runner.py::test_a_signal_to_the_second_rank_saves_and_ends_all",
    )
    yield tested(
        "the same with light processes; under nohup; one that hangs; one that is stuck", "tests/experiment/test_supervision.py"
    )
    yield tested("the command of another rank has ended; clocks of machines", "tests/experiment/test_peers.py")


def end(work: Path, number: signal.Signals, target: str, workers: int) -> tuple[float, str]:
    """Seconds until all processes were gone, and what was wrong."""
    setup = Setup(f"signals-{workers}", 2, workers, "ddp", "at once", epochs=1000, save_every=1)
    training = Training(work, setup, f"{number.name}-{target.replace(' ', '-')}")
    command = [sys.executable, "-m", "emo_lightning", *training.words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}
    with (
        open(training.folder / "output.txt", "w", encoding="utf-8") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True) as run,
    ):
        files = [training.folder / f"pid-{rank}" for rank in range(2)]
        everybody: set[int] = set()
        try:
            until = time.monotonic() + PATIENCE
            while not all(file.exists() for file in files):
                if run.poll() is not None or time.monotonic() > until:
                    return 0.0, f"it did not begin: {training.said()}"
                time.sleep(0.05)
            pids = {"command": run.pid, "stage": int(files[0].read_text()), "rank 1": int(files[1].read_text())}
            everybody = {run.pid, *descendants(run.pid), *pids.values()}
            began = time.monotonic()
            if target == "group":
                os.killpg(run.pid, number)
            else:
                os.kill(pids[target], number)
            while any(lives(pid) for pid in everybody) and time.monotonic() < began + 3 * GOAL:
                run.poll()
                time.sleep(0.02)
            seconds = time.monotonic() - began
        finally:
            left = [pid for pid in everybody if lives(pid)]
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            run.kill()
    if left:
        return seconds, f"{len(left)} processes were left after {seconds:.0f} s"
    if seconds > GOAL:
        return seconds, f"took {seconds:.1f} s"
    if run.returncode == 0:
        return seconds, "exit code 0"
    last = training.stage / "checkpoints/last.ckpt"
    check_content(last)
    return seconds, "" if read_checkpoint(last)["global_step"] else "no step is saved"


def descendants(pid: int) -> set[int]:
    """Processes that it has started, and those that these have."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def lives(pid: int) -> bool:
    """Whether it runs; one that nobody has waited for yet has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
