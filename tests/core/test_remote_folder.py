"""Folders behind URLs: what could not be looked at is not taken for what is not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from emo_lightning.core import remote
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.remote_folder import RemoteFolder


class Busy(MemoryFileSystem):
    """A place of fsspec's own kind, some of whose answers are those of one that has too much to do."""

    protocol = "busy"
    failures = 0
    """Looks at a file that fail from now on."""

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.replace("busy://", "memory://")))

    def info(self, path: str, **kwargs: object) -> dict[str, Any]:
        if Busy.failures:
            Busy.failures -= 1
            msg = "503 Slow Down"
            raise OSError(msg)
        found: dict[str, Any] = super().info(path, **kwargs)
        return found


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> RemoteFolder:
    """With one file, `manifest.json`."""
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)
    monkeypatch.setattr(Busy, "failures", 0)
    fsspec.register_implementation("busy", Busy, clobber=True)
    found = RemoteFolder(f"busy://{tmp_path.name}")
    (tmp_path / "manifest.json").write_text("{}")
    found.put(tmp_path / "manifest.json", "manifest.json")
    return found


def test_a_file_is_removed_though_the_first_look_fails(folder: RemoteFolder) -> None:
    Busy.failures = 2
    folder.remove("manifest.json")
    assert folder.read("manifest.json") is None
    folder.remove("manifest.json")


def test_a_place_that_never_answers_is_an_error(folder: RemoteFolder) -> None:
    Busy.failures = remote.ATTEMPTS
    with pytest.raises(RemoteError, match=r"manifest\.json: cannot be removed: 503 Slow Down \(asked 6 times\)$"):
        folder.remove("manifest.json")
    assert folder.read("manifest.json") == b"{}"
