"""A run ends with its sweep, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from emo_lightning.core.endings import InterruptedBySignal
from emo_lightning.core.lifetimes import PARENT_VARIABLE, die_with_named_parent
from emo_lightning.sweep.processes import child, last_error, terminated_is_interrupted
from emo_lightning.sweep.remote import _run
from tests.patience import gone, wait_until

FORK = multiprocessing.get_context("fork")


def note_and_wait(note: Path) -> None:
    note.with_suffix(".tmp").write_text(str(os.getpid()), encoding="utf-8")
    note.with_suffix(".tmp").rename(note)
    while True:
        signal.pause()


def sweep(note: Path, log: Path) -> None:
    def start(words: list[str]) -> int:
        note_and_wait(Path(words[0]))
        return 0

    FORK.Process(target=child, args=(start, [str(note)], log, 0, 1)).start()
    signal.pause()


def trial(note: Path, _log: Path) -> None:
    parent = os.getpid()

    def start() -> None:
        os.environ[PARENT_VARIABLE] = str(parent)
        die_with_named_parent()
        assert PARENT_VARIABLE not in os.environ
        note_and_wait(note)

    FORK.Process(target=start).start()
    signal.pause()


@pytest.mark.parametrize("starts", [sweep, trial])
def test_a_killed_parent_takes_its_run_with_it(starts: Callable[[Path, Path], None], tmp_path: Path) -> None:
    process = FORK.Process(target=starts, args=(tmp_path / "run", tmp_path / "log"))
    process.start()
    wait_until((tmp_path / "run").exists)
    process.kill()
    process.join()
    wait_until(partial(gone, int((tmp_path / "run").read_text())))


def test_a_trial_says_whose_its_command_is() -> None:
    code = f"import os, sys; sys.exit(7 if int(os.environ[{PARENT_VARIABLE!r}]) == os.getppid() else 1)"
    assert _run([sys.executable, "-S", "-c", code]) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_is_answered_once(number: signal.Signals) -> None:
    with terminated_is_interrupted(), pytest.raises(InterruptedBySignal) as end:
        os.kill(os.getpid(), number)
    assert end.value.exit_code == 128 + number


def test_a_second_ctrl_c_is_impatience() -> None:
    with terminated_is_interrupted():
        with pytest.raises(InterruptedBySignal):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(InterruptedBySignal):
            os.kill(os.getpid(), signal.SIGINT)


def test_what_a_run_said_last_is_of_its_last_attempt(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_error(log) == "it said nothing"
    first = "error: wör\nerror: stage 'a' ended with exit code 2\n"
    log.write_text(first, encoding="utf-8")
    assert last_error(log) == "wör"
    with open(log, "a", encoding="utf-8") as more:
        more.write("epoch 1\n")
    assert last_error(log, len(first.encode())) == "epoch 1"
