"""Which images two collections share, by the bytes of their files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from data_prep.cli import main as prep
from emo_lightning.commands.overlap import main
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.overlap import pictures_of, shared
from tests.data_prep.conftest import picture
from tests.data_prep.sources.trees import write


def _with_exif(seed: int) -> bytes:
    image = Image.open(io.BytesIO(picture(seed, kind="JPEG")))
    exif = image.getexif()
    exif[0x010E] = "a place"
    out = io.BytesIO()
    image.save(out, "JPEG", quality="keep", exif=exif)
    return out.getvalue()


def _tar_of_others(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_a_test_split_that_was_trained_on_is_found_through_store_and_tars(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EmObserver's case: the training images are the test split of another set under other names, one of them without its metadata."""
    files = {"0001.jpg": picture(1, kind="JPEG"), "0002.jpg": _with_exif(2), "0003.jpg": picture(3, kind="JPEG")}
    trained = write(tmp_path / "insets", files)
    suite = {f"awe/a{n}.jpg": data for n, data in enumerate([*list(files.values())[:2], picture(9, kind="JPEG")])}
    write(tmp_path / "suite", suite)
    command = ["import", "labelled", str(tmp_path / "suite"), "--into", str(tmp_path / "store"), "--name", "emoset"]
    assert prep([*command, "--against", str(trained)]) == 0
    said = capsys.readouterr().out
    assert f"2 of 3 images of labelled (66.7 %) are also in {trained}, which has 3" in said
    assert "  awe/a0.jpg = " in said
    assert "compressed anew is not found" in said
    assert prep(["export", str(tmp_path / "store"), str(tmp_path / "tars"), "--name", "emoset", "--labels", "source"]) == 0
    capsys.readouterr()
    for test in ("tars", "store", "suite"):
        assert main([str(tmp_path / test), str(trained), "--json"]) == 2
        found = json.loads(capsys.readouterr().out)
        assert (found["images"], [len(other["shared"]) for other in found["others"]]) == (3, [2])


def test_tars_of_others_and_what_is_no_image(tmp_path: Path) -> None:
    _tar_of_others(tmp_path / "a.tar", {"x/1.jpg": picture(1, kind="JPEG"), "x/1.cls": b"3", "x/2.png": b"none"})
    write(tmp_path / "images", {"one.jpg": 1, "other.png": 5, "notes.txt": "text"})
    tar, folder = pictures_of(tmp_path / "a.tar"), pictures_of(tmp_path / "images")
    assert [pair.image.rpartition("/")[2] for pair in shared(folder.found, tar.found)] == ["one.jpg"]
    assert [line.rpartition(": ")[2] for line in tar.unread] == ["no JPEG, PNG or WebP"]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("none", MissingFileError, "no images there"),
        ("a.txt", InputError, "expected tars, a folder of tars"),
        ("s3://bucket/a.tar", InputError, "images behind a URL are not compared"),
    ],
)
def test_what_is_no_collection(path: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "text"})
    with pytest.raises(error, match=message):
        pictures_of(path if "://" in path else tmp_path / path)
