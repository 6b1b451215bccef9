"""Ranks know of each other's end without comparing clocks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from emo_lightning.core.ranks import Ranks
from emo_lightning.experiment import peers
from emo_lightning.experiment.peers import PeerLostError, Peers
from tests.patience import PATIENCE

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


def test_the_first_rank_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    second, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    second.check()
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.setattr(peers, "MAX_SILENT_SECONDS", 0.1)
    with pytest.raises(PeerLostError, match="rank 0 has said nothing for"):
        second.wait_for_first(2)


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


def test_a_second_start_of_the_same_run_says_nothing(tmp_path: Path) -> None:
    second, process = started(tmp_path, "lives")
    second.wait_for_first(1)
    process.kill()
    process.join()
    _, other = started(tmp_path, "failed")
    other.join()
    second.check()


def test_alone_there_is_nothing_to_tell(tmp_path: Path) -> None:
    one = Peers(tmp_path, Ranks(0, 1))
    with one.reporting():
        one.check()
    assert not list(tmp_path.iterdir())
