"""`emo check` names every fault of tars, and says what cannot be known."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from emo_lightning.cli import main
from emo_lightning.core.shard_index import index_path
from emo_lightning.data.checking import check_tars
from emo_lightning.data.tar_index import TarIndex


@pytest.fixture
def tars(world_tars: Path, tmp_path: Path) -> Path:
    """A copy of an export: four tars, 40 images."""
    return Path(shutil.copytree(world_tars, tmp_path / "tars"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def member(tar: Path, number: int) -> int:
    """A byte in the middle of an image."""
    with tarfile.open(tar) as file:
        images = [one for one in file if not one.name.endswith(".json")]
    return images[number].offset_data + images[number].size // 2


def test_what_is_whole(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tars), "--decode", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shards": 4, "samples": 40, "unnamed": 0, "decoded": 40, "faults": []}


def test_every_fault_is_named(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TarIndex.open(tars)
    first, second, third = sorted(tars.glob("*.tar"))[:3]
    flip(first, 100)  # a header
    flip(second, member(second, 2))
    third.write_bytes(third.read_bytes()[:-2000])
    assert main(["check", str(tars)]) == 2
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 4
    for line, tar in zip(out, (first, second, third), strict=False):
        assert line.startswith(f"{tar}:")
    assert out[-1].startswith("4 tars, ")
    assert out[-1].endswith(" samples, 3 faults")


def test_a_tar_of_which_nothing_is_known(tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Damaged before it came here: its records still tell, and without their word decoding does where it can."""
    (tars / "manifest.json").unlink()
    tar = min(tars.glob("*.tar"))
    flip(tar, member(tar, 0))
    index_path(tar).unlink()
    found = check_tars([tar], decode=False)
    assert (found.unnamed, len(found.faults)) == (1, 1)
    assert "sha256 of the bytes is" in found.faults[0]
    assert main(["check", str(max(tars.glob("*.tar")))]) == 0
    assert "no manifest names 1 of the tars" in capsys.readouterr().out


def test_an_image_that_is_none_any_more(tars: Path) -> None:
    """Whoever made the tar has hashed the broken file: nothing but decoding tells."""
    (tars / "manifest.json").unlink()
    tar = min(tars.glob("*.tar"))
    with tarfile.open(tar) as file:
        members = [(one, file.extractfile(one)) for one in file]
        pieces = [(one, b"" if body is None else body.read()) for one, body in members]
    index_path(tar).unlink()
    whole = pieces[0][1]
    broken = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    before, after = (hashlib.sha256(data).hexdigest().encode() for data in (whole, broken))
    with tarfile.open(tar, "w") as file:
        for one, body in pieces:
            file.addfile(one, io.BytesIO(broken if body is whole else body.replace(before, after)))
    assert check_tars([tar], decode=False).faults == []
    (fault,) = check_tars([tar], decode=True).faults
    assert fault.startswith(f"{tar}:{Path(pieces[0][0].name).stem}")
