"""A store that others made: its ledger cannot have another file read as an image or copied, and what is in it runs nothing."""

from __future__ import annotations

import os
import pickle
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from data_prep.cli import main

SECRET = b"a key of mine"


class Touch:
    """Unpickled, it makes a file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("planted",)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One image; beside the store lies a file that is none of its."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    Image.new("RGB", (70, 70), (200, 10, 10)).save("in/a.png")
    Path("secret.png").write_bytes(SECRET)
    assert main(["import", "folder", "in", "--into", "store"]) == 0
    return tmp_path / "store"


@pytest.mark.parametrize("attack", ["sha256", "extension", "link"])
def test_no_other_file_is_read_as_an_image(attack: str, store: Path) -> None:
    (image,) = (store / "images").rglob("*.png")
    if attack == "link":
        image.unlink()
        image.symlink_to(store.parent / "secret.png")
    else:
        value = "../../../secret" if attack == "sha256" else "png/../../../../secret.png"
        with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger, ledger:
            ledger.execute(f"UPDATE items SET {attack} = ?", (value,))
    assert main(["dedup", "store"]) == 2
    assert main(["backup", "store", "copy"]) == 2
    assert [path for path in Path("copy").rglob("*") if path.is_file() and SECRET in path.read_bytes()] == []


def test_a_ledger_runs_nothing(store: Path) -> None:
    with closing(sqlite3.connect(store / "ledger.sqlite")) as ledger, ledger:
        ledger.execute("CREATE TRIGGER t AFTER UPDATE ON items BEGIN SELECT load_extension('x'); END")
    assert main(["status", "store"]) == 0
    (store / "ledger.sqlite").write_bytes(pickle.dumps(Touch()))
    assert main(["status", "store"]) == 2
    assert not Path("planted").exists()
