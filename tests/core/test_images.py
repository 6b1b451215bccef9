"""One rule for both packages: what the store keeps and what the model sees are the same 8-bit, opaque pixels."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_prep.sources.images import check_image
from emo_lightning.core.images import eight_bit, opaque, to_rgb


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    """Left half black, right half mid-red (or mid-grey)."""
    image = Image.new("RGB", size)
    image.paste((128, 0, 0), (size[0] // 2, 0, *size))
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "P", "1", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    found = to_rgb(picture(mode))
    assert (found.mode, found.size) == ("RGB", (40, 30))
    assert found.getpixel((0, 0)) == (0, 0, 0)


def test_what_is_transparent_is_white() -> None:
    image = picture("RGBA")
    image.putalpha(0)
    assert to_rgb(image).getextrema() == ((255, 255),) * 3


def test_what_needs_no_change_is_the_same_object() -> None:
    solid = picture("RGBA")
    assert eight_bit(solid) is solid
    assert opaque(solid) is solid


def _noise(mode: str, channels: int) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (32, 40, channels), dtype=np.uint8)
    return Image.frombytes(mode, (40, 32), values.tobytes())


def _grey16() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 32 * 40).reshape(32, 40).astype(np.uint16))


def _palette() -> Image.Image:
    image = _noise("RGB", 3).quantize(64)
    image.info["transparency"] = bytes(range(0, 256, 4))
    return image


def _keyed() -> Image.Image:
    """RGB with one colour that counts as transparent."""
    image = Image.new("RGB", (40, 32), (9, 8, 7))
    image.paste((1, 2, 3), (0, 0, 20, 32))
    image.info["transparency"] = (1, 2, 3)
    return image


def _solid_alpha() -> Image.Image:
    image = _noise("RGB", 3)
    image.putalpha(255)
    return image


KINDS: dict[str, Callable[[], Image.Image]] = {
    "I;16": _grey16,
    "I": lambda: _grey16().convert("I"),
    "LA": lambda: _noise("LA", 2),
    "P with transparency": _palette,
    "CMYK": lambda: _noise("CMYK", 4),
    "RGBA": lambda: _noise("RGBA", 4),
    "RGBA, nothing transparent": _solid_alpha,
    "RGB with a transparent colour": _keyed,
}


def _as_it_was(image: Image.Image) -> Image.Image:
    """The model's side before both had one rule."""
    if image.mode.startswith("I"):
        image = image.convert("I").point(lambda value: value / 257).convert("L")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image.convert("RGB")


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixels_are_those_of_before(kind: str) -> None:
    assert to_rgb(KINDS[kind]()).tobytes() == _as_it_was(KINDS[kind]()).tobytes()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("CMYK", "I")])
def test_the_store_and_the_model_see_the_same(kind: str) -> None:
    """Through PNG, which holds all of these."""
    out = io.BytesIO()
    KINDS[kind]().save(out, "PNG")
    with Image.open(io.BytesIO(out.getvalue())) as given, Image.open(io.BytesIO(check_image(out.getvalue()).data)) as kept:
        assert to_rgb(given).tobytes() == kept.convert("RGB").tobytes()


def test_a_cmyk_photograph_is_stored_as_it_is() -> None:
    out = io.BytesIO()
    KINDS["CMYK"]().save(out, "JPEG")
    checked = check_image(out.getvalue())
    assert checked.data == out.getvalue()
    with Image.open(io.BytesIO(checked.data)) as kept:
        assert to_rgb(kept).tobytes() == kept.convert("RGB").tobytes()
