"""Whatever ends a process of a run ends all of them: command, stage, rank and worker, here without a model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest

from emo_lightning.core import endings
from emo_lightning.core.endings import ENDING, ENDING_SIGNALS, StoppedError, exit_code
from emo_lightning.experiment import supervision
from emo_lightning.experiment.supervision import NO_STATUS_EXIT, Supervisor, lead_group
from tests.patience import PATIENCE, gone, wait_until

FORK = multiprocessing.get_context("fork")
TERM, INT, HUP, USR1, KILL = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGKILL
RANK = """
import signal, os
from emo_lightning.core.lifetimes import die_with_parent
die_with_parent(parent=int(os.environ["EMO_STAGE_GROUP"]))
open("rank", "w").write(str(os.getpid()))
signal.pause()
"""
"""What Lightning's launcher starts: a new interpreter."""


@dataclass
class Run:
    """A command with its stage, rank and worker, all of which run."""

    folder: Path
    command: ForkProcess
    pids: dict[str, int]

    def end(self, who: str, number: signal.Signals) -> int:
        """Send a signal; the exit code of the command, once all processes are gone."""
        os.kill(self.pids[who], number)
        self.command.join(PATIENCE)
        for pid in self.pids.values():
            wait_until(partial(gone, pid))
        assert self.command.exitcode is not None
        return self.command.exitcode

    @property
    def saved(self) -> bool:
        """Whether the stage has stopped after a step."""
        return (self.folder / "saved").exists()


def note(name: str, pid: int) -> None:
    """In one go: who reads it never finds half a number."""
    Path(f"{name}.tmp").write_text(str(pid), encoding="utf-8")
    Path(f"{name}.tmp").rename(name)


def worker() -> None:
    note("worker", os.getpid())
    while True:
        signal.pause()


def step() -> None:
    time.sleep(0.01)
    ENDING.agree(ENDING.wishes())
    if ENDING.agreed is not None:
        Path("saved").touch()
        raise StoppedError(ENDING.agreed, 1)


def stage(word: Connection, parent: int, hangs: bool) -> None:
    lead_group(parent)
    with ENDING.watched(lambda kind, value: word.send((kind, value))):
        ENDING.begin_steps()
        FORK.Process(target=worker, daemon=True).start()
        subprocess.Popen([sys.executable, "-c", RANK])
        note("stage", os.getpid())
        while True:
            if hangs:
                time.sleep(600)
            step()


def supervised(target: Callable[..., None], *given: object) -> supervision.Ended:
    word, said = FORK.Pipe(duplex=False)
    process = FORK.Process(target=target, args=(said, os.getpid(), *given))
    process.start()
    return Supervisor(process, word).wait()


def command(ignored: tuple[signal.Signals, ...], hangs: bool) -> None:
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)
    os._exit(supervised(stage, hangs).code)


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    runs = []

    def start(ignored: tuple[signal.Signals, ...] = (), hangs: bool = False) -> Run:
        process = FORK.Process(target=command, args=(ignored, hangs))
        process.start()
        assert process.pid is not None
        names = ("stage", "rank", "worker")
        wait_until(lambda: all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in names))
        run = Run(tmp_path, process, {"command": process.pid, **{name: int((tmp_path / name).read_text()) for name in names}})
        runs.append(run)
        return run

    yield start
    for run in runs:
        run.command.kill()


@pytest.mark.parametrize("who", ["command", "stage"])
@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_saves_first(started: Callable[..., Run], who: str, number: signal.Signals) -> None:
    run = started()
    assert run.end(who, number) == exit_code(number)
    assert run.saved


@pytest.mark.parametrize(("who", "code"), [("command", -KILL), ("stage", -KILL % 256)])
def test_a_kill_ends_all(started: Callable[..., Run], who: str, code: int) -> None:
    run = started()
    assert run.end(who, KILL) == code
    assert not run.saved


@pytest.mark.parametrize("ignored", [(HUP,), (HUP, INT)], ids=["nohup", "nohup in the background of a script"])
def test_under_nohup(started: Callable[..., Run], ignored: tuple[signal.Signals, ...]) -> None:
    run = started(ignored)
    for number in ignored:
        os.kill(run.pids["command"], number)
    assert run.end("command", TERM) == exit_code(TERM)
    assert run.saved


@pytest.mark.parametrize("who", ["command", "stage"])
def test_one_that_hangs_is_ended(started: Callable[..., Run], who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endings, "STEP_GRACE_SECONDS", 0.2)
    run = started(hangs=True)
    assert run.end(who, TERM) == exit_code(TERM)
    assert not run.saved


def stuck(word: Connection, parent: int) -> None:
    """A stage that answers nothing at all."""
    lead_group(parent)
    for number in ENDING_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    os.kill(parent, TERM)
    while True:
        signal.pause()


def test_one_that_is_stuck_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "STEP_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(supervision, "_MARGIN", 0.0)
    assert supervised(stuck) == (exit_code(TERM), TERM)


def leaves(word: Connection, parent: int, code: int, done: bool) -> None:
    lead_group(parent)
    if done:
        word.send(("complete", 0))
    sys.exit(code)


@pytest.mark.parametrize(
    ("code", "done", "seen"),
    [(0, True, 0), (0, False, NO_STATUS_EXIT), (3, False, 3), (3, True, 3)],
    ids=["complete", "a code of 0 alone", "failed", "failed after its word"],
)
def test_complete_is_what_says_so(code: int, done: bool, seen: int) -> None:
    assert supervised(leaves, code, done) == (seen, None)


def test_complete_before_it_could_stop() -> None:
    """Its result stands, and the command ends."""

    def target(word: Connection, parent: int) -> None:
        lead_group(parent)
        with ENDING.watched(lambda kind, value: word.send((kind, value))):
            ENDING.begin_steps()
            os.kill(parent, HUP)
            wait_until(lambda: ENDING.asked is not None)
        word.send(("complete", 0))

    assert supervised(target) == (0, HUP)
