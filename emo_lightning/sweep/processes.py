"""A run's own process: its group, its log, its share of the machine, and how it is stopped."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

from emo_lightning.core.endings import ENDING_SIGNALS, InterruptedBySignal
from emo_lightning.core.lifetimes import die_with_parent
from emo_lightning.sweep.parameters import SweepError


@contextmanager
def sweep_lock(folder: Path) -> Iterator[None]:
    """Keep a second sweep out of the folder.

    Raises:
        SweepError: one is at work there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a", encoding="utf-8") as lock:
        try:
            # Of this process alone, unlike flock's: a run that outlives a killed sweep must not keep the next one out.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            msg = f"{folder}: another sweep is running here; choose another --name or wait"
            raise SweepError(msg) from None
        yield


@contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """What asks a sweep to end (`ENDING_SIGNALS`) ends it as Ctrl-C does: its runs save themselves first.

    Once: a signal comes to the group and to the process. A second Ctrl-C is a person's, who will not wait.
    """
    asked: list[int] = []

    def interrupt(number: int, _: object) -> None:
        if not asked or number == signal.SIGINT:
            asked.append(number)
            raise InterruptedBySignal(signal.Signals(number))

    # Under nohup, and in the background of a script, some are ignored: they stay so.
    mine = [number for number in ENDING_SIGNALS if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in mine}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def send(process: BaseProcess, number: signal.Signals) -> None:
    """To the run and to its stages: each run leads a process group."""
    if process.pid is not None and process.is_alive():
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            # It has not made its group yet.
            os.kill(process.pid, number)


def child(start: Callable[[list[str]], int], arguments: Sequence[str], log: Path, slot: int, jobs: int) -> None:
    """A run's process: leads a group of its own, speaks into its log, and ends with the exit code of `start`, or with the sweep."""
    os.setpgid(0, 0)
    # As for the process of a stage: a collection would copy all that was imported before the fork.
    gc.freeze()
    sweep = multiprocessing.parent_process()
    die_with_parent(parent=None if sweep is None else sweep.pid)
    for number in ENDING_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # A program that embeds this one may have put something else in their place.
    sys.stdout, sys.stderr = (open(stream, "w", buffering=1, encoding="utf-8", closefd=False) for stream in (1, 2))  # noqa: SIM115
    _share(slot, jobs)
    # `stage.json` notes the command that made it.
    sys.argv = ["emo", *arguments]
    code = start(list(arguments))
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _share(slot: int, jobs: int) -> None:
    """Several runs at a time share the cores, and the GPUs that CUDA_VISIBLE_DEVICES lists."""
    if jobs == 1:
        return
    devices = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if len(devices) >= jobs:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot::jobs])
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // jobs))


def last_error(log: Path, start: int = 0) -> str:
    """What a run said last: its last line with `error:` that tells more than which stage ended, or else its last line.

    Args:
        log: what it said, after what its earlier attempts did.
        start: bytes of those.
    """
    text = log.read_bytes()[start:].decode(errors="replace") if log.is_file() else ""
    said = [line for line in map(str.strip, text.splitlines()) if line]
    errors = [line for line in said if line.startswith("error: ")]
    telling = [line for line in errors if " ended with exit code " not in line]
    return (telling or errors or said or ["it said nothing"])[-1].removeprefix("error: ")[:500]
