"""Goal 4: whatever ends a process of a run ends all of them, soon, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks.run_goals.lines import ROOT, Given, Line, Tested, tested
from benchmarks.run_goals.trainings import Setup, Training, run_command
from emo_lightning.core.checkpoints import check_content, read_checkpoint
from emo_lightning.core.endings import exit_code
from tests.forked import Forked
from tests.patience import PATIENCE
from tests.ranks import slurm_port, slurm_tasks, start_each

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)
TARGETS = ("command", "stage", "rank 1", "group")
"""The stage is rank 0; the group is that of the command, as a terminal and a batch system have it."""
GOAL = 10.0
"""Seconds."""
TIMES = 20
"""Each signal to each of them."""
WHAT = (
    "TERM, INT, HUP, KILL to command, stage (which is rank 0), rank 1, group of `emo run` on 2 ranks{}: all gone in 10 s, the exit code "
    "says so, the newest checkpoint loads"
)
Start = Callable[[Training], "Forked | subprocess.Popen[bytes]"]


def measure(given: Given) -> Iterator[Line | Tested]:
    """The command with the ranks that Lightning starts, then light processes in its place."""
    cases = [(number, target) for number in SIGNALS for target in TARGETS]
    yield ended(given, cases * given.count(TIMES, 1), forked, "", given.count(2, 1))
    cases = list(zip(SIGNALS, ("rank 1", "group", "command", "stage"), strict=True))
    yield ended(given, cases, interpreters, ", each a new interpreter", 1)
    yield tested(
        "the same with light processes; under nohup; one that hangs; one that is stuck", "tests/experiment/test_supervision.py"
    )
    yield machines(given)
    yield tested("the command of another rank has ended; clocks of machines", "tests/experiment/test_peers.py")


def ended(given: Given, cases: Sequence[tuple[signal.Signals, str]], start: Start, how: str, trainings: int) -> Line:
    """One line: a training is ended, goes on, and is ended again.

    Args:
        given: how much is measured, and where.
        cases: signals, and whom they are sent to.
        start: begins the command.
        how: it does so.
        trainings: that share the cases: one without workers, one with two.
    """
    wrong, slowest = [], 0.0
    for workers in range(0, 2 * trainings, 2):
        setup = Setup(f"signals-{start.__name__}-{workers}", 2, workers, "ddp", "padded", epochs=100_000, save_every=1)
        training = Training(given.work, setup, "ended")
        for number, target in cases[workers // 2 :: trainings]:
            seconds, fault = end(training, number, target, start)
            slowest = max(slowest, seconds)
            if fault:
                wrong.append(f"{number.name} to {target}: {fault}")
    found = "; ".join([f"{len(cases) - len(wrong)}/{len(cases)}, slowest {slowest:.1f} s", *wrong])
    tests = (
        "tests/experiment/test_supervision.py",
        "tests/experiment/test_runner.py::test_a_signal_to_the_second_rank_saves_and_ends_all",
    )
    return Line(WHAT.format(how), found, not wrong, " ".join(tests))


def machines(given: Given) -> Line:
    """One line: of two commands under srun, as on two machines, one is killed, in a stage of both and in one of the first rank alone."""
    cases = [(ranks, victim) for ranks in (2, 1) for victim in (0, 1)] * given.count(3, 1)
    wrong, slowest = [], 0.0
    for number, (ranks, victim) in enumerate(cases):
        setup = Setup(
            f"machines-{number}", 1, 0, "ddp" if ranks == 2 else "auto", "padded", epochs=100_000, save_every=1, nodes=ranks
        )
        training = Training(given.work, setup, "killed")
        seconds, fault = end_machine(training, ranks, victim)
        slowest = max(slowest, seconds)
        if fault:
            wrong.append(f"rank {victim} of a stage of {ranks}: {fault}")
    found = "; ".join([f"{len(cases) - len(wrong)}/{len(cases)}, slowest {slowest:.1f} s", *wrong])
    return Line(
        "KILL to one of two commands under srun (as on two machines), in a stage of both ranks and in one of the first alone: all gone in "
        "10 s, the exit code of the other says so",
        found,
        not wrong,
        "tests/experiment/test_runner.py::test_a_killed_command_of_two_machines_ends_the_other",
    )


def end_machine(training: Training, ranks: int, victim: int) -> tuple[float, str]:
    """Start both commands, kill one; seconds until all processes were gone, and what was wrong."""
    files = [training.folder / f"pid-{rank}" for rank in range(ranks)]
    commands = start_each(
        partial(run_command, training.words), slurm_tasks(2, slurm_port(), nodes=2), training.folder / "output.txt"
    )
    everybody: set[int] = set()
    try:
        until = time.monotonic() + PATIENCE
        while not all(file.exists() for file in files):
            if any(one.exitcode is not None for one in commands) or time.monotonic() > until:
                return 0.0, f"it did not begin: {training.said()}"
            time.sleep(0.02)
        for one in commands:
            assert one.pid is not None
            everybody |= {one.pid, *descendants(one.pid)}
        began = time.monotonic()
        commands[victim].kill()
        while any(lives(pid) for pid in everybody) and time.monotonic() < began + 6 * GOAL:
            time.sleep(0.02)
        seconds = time.monotonic() - began
    finally:
        left = [pid for pid in everybody if lives(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for one in commands:
            one.kill()
            one.join()
    if left or seconds > GOAL:
        return seconds, f"{len(left)} processes were left after {seconds:.0f} s: {training.said()}"
    code = commands[1 - victim].exitcode
    return seconds, "" if code == 2 else f"exit code {code}: {training.said()}"


def forked(training: Training) -> Forked:
    """The command and its ranks as forks of this process."""
    return Forked(training.words, environment(), training.folder / "output.txt", session=True)


def interpreters(training: Training) -> subprocess.Popen[bytes]:
    """The command and its ranks as a shell would start them."""
    with open(training.folder / "output.txt", "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "emo_lightning", *training.words],
            env=environment(),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def environment() -> dict[str, str]:
    """Of a command that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}


def end(training: Training, number: signal.Signals, target: str, start: Start) -> tuple[float, str]:
    """Start the command, end it; seconds until all processes were gone, and what was wrong."""
    files = [training.folder / f"pid-{rank}" for rank in range(2)]
    for file in files:
        file.unlink(missing_ok=True)
    before = last_step(training)
    run = start(training)
    everybody: set[int] = set()
    try:
        until = time.monotonic() + PATIENCE
        while not all(file.exists() for file in files):
            if run.poll() is not None or time.monotonic() > until:
                return 0.0, f"it did not begin: {training.said()}"
            time.sleep(0.02)
        pids = {"command": run.pid, "stage": int(files[0].read_text()), "rank 1": int(files[1].read_text())}
        everybody = {run.pid, *descendants(run.pid), *pids.values()}
        began = time.monotonic()
        if target == "group":
            os.killpg(run.pid, number)
        else:
            os.kill(pids[target], number)
        while (run.poll() is None or any(lives(pid) for pid in everybody)) and time.monotonic() < began + 3 * GOAL:
            time.sleep(0.02)
        seconds = time.monotonic() - began
    finally:
        left = [pid for pid in everybody if lives(pid)]
        for pid in {run.pid, *left} if run.poll() is None else left:
            os.kill(pid, signal.SIGKILL)
        while run.poll() is None:
            time.sleep(0.01)
    if left:
        return seconds, f"{len(left)} processes were left after {seconds:.0f} s: {training.said()}"
    if seconds > GOAL:
        return seconds, f"took {seconds:.1f} s"
    if run.returncode == 0 or (number != signal.SIGKILL and run.returncode != exit_code(number)):
        return seconds, f"exit code {run.returncode}: {training.said()}"
    step = last_step(training)
    return seconds, "" if step > before else f"the newest checkpoint has step {step}, had {before} before"


def last_step(training: Training) -> int:
    """Of the newest checkpoint, whose checksum is looked at; 0 where there is none yet."""
    last = training.stage / "checkpoints/last.ckpt"
    if not last.exists():
        return 0
    check_content(last)
    return int(read_checkpoint(last)["global_step"])


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
