"""Ranks know of each other's end without comparing clocks."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.ranks import Ranks
from emo_lightning.experiment import peers
from emo_lightning.experiment.peers import SILENCE_VARIABLE, PeerLostError, Peers
from tests.patience import PATIENCE, wait_until

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "HEARTBEAT_SECONDS", 0.01)


def first_rank(folder: Path, end: str) -> None:
    """Does a stage, and then what `end` says."""
    one = Peers(folder, Ranks(0, 2))
    with one.reporting():
        one.at(2)
        if end == "failed":
            raise SystemExit(1)
        if end == "lives":
            signal.pause()
        if end == "looks":
            lost(one)
        if end == "is held up":
            # Calls C with the lock of the interpreter, as an import that waits for a disk does.
            ctypes.PyDLL(None).pause()


def started(folder: Path, end: str) -> tuple[Peers, multiprocessing.context.ForkProcess]:
    second = Peers(folder, Ranks(1, 2))
    process = FORK.Process(target=first_rank, args=(folder, end))
    process.start()
    return second, process


def lost(second: Peers) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        second.check()


@pytest.mark.parametrize("end", ["lives", "done"])
def test_the_first_rank_has_done_its_stage(tmp_path: Path, end: str) -> None:
    second, process = started(tmp_path, end)
    second.wait_for_first(1)
    process.kill()
    process.join()


def writer_of(process: multiprocessing.context.ForkProcess) -> int:
    """Process id of what writes its lines: its one child."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    return int(child)


def watch_lines(second: Peers, number: int) -> None:
    """Until so many new ones have been seen."""
    seen: set[str | None] = set()

    def many() -> bool:
        second.check()
        seen.add(second._seen[0].line)
        return len(seen) > number

    wait_until(many)


@pytest.mark.parametrize("end", ["lives", "is held up"])
def test_the_first_rank_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Its end is said, and no silence waited for, whatever it was about."""
    monkeypatch.setenv(SILENCE_VARIABLE, "1e9")
    second, process = started(tmp_path, end)
    second.wait_for_first(1)
    second.check()
    process.kill()
    process.join()
    with pytest.raises(PeerLostError, match=r"rank 0: its command was killed \("):
        second.wait_for_first(2)


def test_a_machine_that_is_gone_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SILENCE_VARIABLE, "900")
    second, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    assert second._max_silent == 900
    # From now on: a busy machine would be silent for a moment, too.
    second._max_silent = 0.1
    os.kill(writer_of(process), signal.SIGKILL)
    process.kill()
    process.join()
    with pytest.raises(PeerLostError, match=r"rank 0 has said nothing for \d+ s: its machine is gone"):
        second.wait_for_first(2)


def test_time_in_which_nobody_looked_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    os.kill(writer_of(process), signal.SIGKILL)
    now = time.monotonic
    # As after a machine was suspended for a night: its own lines come a moment later.
    monkeypatch.setattr(time, "monotonic", lambda: now() + 30_000)
    second.check()
    assert second._seen[0].silent <= 5
    process.kill()
    process.join()


@pytest.mark.parametrize("text", ["soon", "0.01", "nan", "inf"])
def test_a_silence_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(SILENCE_VARIABLE, text)
    with pytest.raises(InputError, match=rf"{SILENCE_VARIABLE}: found '{text}'; expected seconds, at least 0\.05"):
        Peers(tmp_path, Ranks(0, 2))


def test_lines_go_on_while_the_command_is_held_up(tmp_path: Path) -> None:
    second, process = started(tmp_path, "is held up")
    watch_lines(second, 5)
    process.kill()
    process.join()


def test_lines_go_on_where_their_writer_was_ended(tmp_path: Path) -> None:
    second, process = started(tmp_path, "looks")
    watch_lines(second, 2)
    os.kill(writer_of(process), signal.SIGKILL)
    watch_lines(second, 5)
    process.kill()
    process.join()


def test_the_first_rank_has_failed(tmp_path: Path) -> None:
    second, process = started(tmp_path, "failed")
    with pytest.raises(PeerLostError, match="rank 0 has failed"):
        lost(second)
    process.join()


def says(folder: Path, text: str) -> None:
    first = Peers(folder, Ranks(0, 2))
    with first.reporting():
        assert first.said_by_first("port-1", lambda: text) == text
        signal.pause()


def test_what_the_first_rank_says_is_that_of_this_start(tmp_path: Path) -> None:
    for text in ("1234", "5678"):
        second = Peers(tmp_path, Ranks(1, 2))
        process = FORK.Process(target=says, args=(tmp_path, text))
        process.start()
        assert second.said_by_first("port-1", lambda: "of the second") == text
        # Its word stays there.
        process.kill()
        process.join()


def test_the_first_rank_says_nothing_any_more(tmp_path: Path) -> None:
    second, process = started(tmp_path, "failed")
    with pytest.raises(PeerLostError, match="rank 0 has failed"):
        second.said_by_first("port-1", str)
    process.join()


def test_an_earlier_start_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line stands there when this one begins: of a failed run, or of one that was killed after the stage that is waited for."""
    _, process = started(tmp_path, "failed")
    process.join()
    second = Peers(tmp_path, Ranks(1, 2))
    second.check()
    monkeypatch.setattr(peers, "MAX_LATE_SECONDS", 0.0)
    with pytest.raises(PeerLostError, match="rank 0 has said nothing"):
        second.wait_for_first(1)


def killed_when_one_line_was_read(folder: Path) -> Peers:
    """The second rank, which knows one line of the first, and that it was killed."""
    before, process = started(folder, "lives")
    before.wait_for_first(1)
    # The line goes on: it is held still, for the moment of reading.
    writer = writer_of(process)
    os.kill(writer, signal.SIGSTOP)
    second = Peers(folder, Ranks(1, 2))
    process.kill()
    process.join()
    os.kill(writer, signal.SIGCONT)
    wait_until(lambda: second._read(0) != second._seen[0].line)
    second.check()
    return second


def test_the_first_rank_was_killed_when_this_one_had_read_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else follows, so it was no earlier start; ten minutes were waited for."""
    monkeypatch.setattr(peers, "MAX_RESTART_SECONDS", 0.1)
    second = killed_when_one_line_was_read(tmp_path)
    with pytest.raises(PeerLostError, match=r"rank 0: its command was killed \("):
        lost(second)


def test_an_earlier_start_is_killed_while_this_one_begins(tmp_path: Path) -> None:
    second = killed_when_one_line_was_read(tmp_path)
    _, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    process.kill()
    process.join()
    with pytest.raises(PeerLostError, match=r"rank 0: its command was killed \("):
        lost(second)


def test_a_start_that_is_killed_before_its_second_line_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It began while this one watched."""
    monkeypatch.setattr(peers, "MAX_RESTART_SECONDS", 1e9)
    for _ in range(2):
        second, process = started(tmp_path, "lives")
        other = Peers(tmp_path, Ranks(1, 2))
        other.wait_for_first(1)
        process.kill()
        process.join()
        with pytest.raises(PeerLostError, match=r"rank 0: its command was killed \("):
            lost(second)


def test_a_second_start_of_the_same_run_says_nothing(tmp_path: Path) -> None:
    second, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    process.kill()
    process.join()
    _, other = started(tmp_path, "failed")
    other.join()
    second.check()


def test_another_job_in_the_same_folder_is_not_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By mistake, or one that had been requeued under another number."""
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    second, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    monkeypatch.setenv("SLURM_STEP_ID", "1")
    other = Peers(tmp_path, Ranks(1, 2))
    assert other._seen[0].line is None
    _, refused = started(tmp_path, "failed")
    with pytest.raises(PeerLostError, match="rank 0 has failed"):
        lost(other)
    second.check()
    for one in (process, refused):
        one.kill()
        one.join()


def test_alone_there_is_nothing_to_tell(tmp_path: Path) -> None:
    one = Peers(tmp_path, Ranks(0, 1))
    with one.reporting():
        one.check()
        assert one.said_by_first("port-1", lambda: "1234") == "1234"
    assert not list(tmp_path.iterdir())
