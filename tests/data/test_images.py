"""Pictures of every kind become what a page would show, in 8-bit RGB, or an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.data.images import as_seen, open_rgb_image
from emo_lightning.data.tar_index import TarIndex
from tests.data.test_tar_index import record, write_tar


def picture(size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Left half black, right half mid-red."""
    image = Image.new("RGB", size)
    image.paste((128, 0, 0), (size[0] // 2, 0, *size))
    return image


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "grey16.png")
    found = np.asarray(open_rgb_image(tmp_path / "grey16.png")).astype(int)
    assert np.abs(found - (values / 257)[..., None]).max() <= 1


def test_a_rotated_photograph_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "rotated.jpg", exif=exif)
    assert open_rgb_image(tmp_path / "rotated.jpg").size == (30, 40)


@pytest.mark.parametrize(
    ("mode", "extension", "orientation"),
    [("RGB", "jpg", 6), ("RGB", "jpg", None), ("RGB", "png", 8), ("RGB", "webp", 3), ("RGBA", "png", 5), ("I;16", "png", None)],
)
def test_a_picture_is_the_same_from_everywhere(mode: str, extension: str, orientation: int | None, tmp_path: Path) -> None:
    """From a file, from a tar, and opened by whoever calls `EmotionModel.embed` and `explain`."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, len(mode) if mode.startswith("RGB") else 1), dtype=np.uint8)
    if mode == "RGBA":
        pixels[:, :20, 3] = 0
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels, mode)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    path = tmp_path / f"photo.{extension}"
    image.save(path, exif=exif)
    expected = np.asarray(open_rgb_image(path))
    size = (expected.shape[1], expected.shape[0])
    members = {
        "a.json": record(0, path.read_bytes(), id="a", width=size[0], height=size[1], objects=[]),
        f"a.{extension}": path.read_bytes(),
    }
    index = TarIndex.open(write_tar(tmp_path / "a.tar", members))
    with Image.open(path) as opened:
        assert np.array_equal(np.asarray(as_seen(opened)), expected)
    assert np.array_equal(np.asarray(index.image(0)), expected)
    assert np.array_equal(np.asarray(as_seen(index.image(0))), expected)


def test_an_image_too_long_for_the_model_is_named(tmp_path: Path) -> None:
    picture(size=(700, 3)).save(tmp_path / "strip.png")
    with pytest.raises(InputError, match=r"strip\.png: 700x3: aspect ratio above 200"):
        open_rgb_image(tmp_path / "strip.png")


@pytest.mark.parametrize("kept", [0, 12, 400])
def test_broken_files_are_named(tmp_path: Path, kept: int) -> None:
    data = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(data, "JPEG")
    (tmp_path / "half.jpg").write_bytes(data.getvalue()[:kept])
    with pytest.raises(InputError, match=r"half\.jpg: (does not decode|not an image)"):
        open_rgb_image(tmp_path / "half.jpg")
