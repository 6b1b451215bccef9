"""Where the sockets of a stage's workers are."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import shutil
import tempfile
from multiprocessing.connection import Listener
from pathlib import Path

import pytest

from emo_lightning.experiment import processes
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.processes import make_socket_folder


@pytest.fixture(autouse=True)
def _no_socket_folder_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process."""
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)  # type: ignore[attr-defined]


def folder_of(tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process, with a path of so many bytes."""
    folder = tmp_path
    while (left := length - len(bytes(folder)) - 1) > 0:
        folder = folder / ("d" * min(left, 100))
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.parametrize("length", [150, 300])
def test_a_long_temporary_folder_is_not_for_sockets(tmp_path: Path, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, length, monkeypatch)
    sockets = make_socket_folder()
    assert not sockets.startswith(str(folder))
    assert tempfile.gettempdir() == str(folder), "all else is where the user wants it"
    with Listener(family="AF_UNIX") as listener:
        assert str(listener.address).startswith(sockets)


def test_the_longest_folder_that_a_socket_can_be_in(monkeypatch: pytest.MonkeyPatch) -> None:
    short = tempfile.mkdtemp(dir="/tmp")
    # After the folder in it, which goes when this process does.
    multiprocessing.util.Finalize(None, shutil.rmtree, args=(short,), exitpriority=-101)
    folder = folder_of(Path(short), processes._SOCKET_FOLDER, monkeypatch)
    assert make_socket_folder().startswith(str(folder))
    with Listener(family="AF_UNIX") as listener:
        assert len(str(listener.address)) == 107


def test_no_folder_is_short_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, 150, monkeypatch)
    monkeypatch.setattr(processes, "_SHORT_FOLDERS", ())
    with pytest.raises(ExperimentError, match="too long for the sockets of workers; allowed: a folder of at most 75 bytes"):
        make_socket_folder()
