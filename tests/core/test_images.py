"""One rule for both packages: what the store keeps and what the model sees are the same 8-bit, opaque pixels."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from data_prep.sources.images import check_image
from emo_lightning.core.errors import InputError
from emo_lightning.core.images import MAX_IMAGE_BYTES, eight_bit, image_size, opaque, open_image, to_rgb


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


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file of that kind."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A PNG of 1 x 1 whose header says another size."""
    data = bytearray(encoded(Image.new("RGB", (1, 1))))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def webp_that_claims(width: int, height: int, chunk: bytes) -> bytes:
    """A WebP whose header says a size; of nothing else."""
    sizes = {
        b"VP8X": bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"),
        b"VP8L": b"\x2f" + ((width - 1) & 0x3FFF | ((height - 1) & 0x3FFF) << 14).to_bytes(4, "little") + bytes(5),
        b"VP8 ": b"\x00\x00\x00\x9d\x01\x2a" + (width & 0x3FFF).to_bytes(2, "little") + (height & 0x3FFF).to_bytes(2, "little"),
    }
    body = b"WEBP" + chunk + (10).to_bytes(4, "little") + sizes[chunk] + bytes(8)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize("kind", ["EPS", "GIF", "BMP", "TIFF", "PPM", "ICO", "TGA", "PCX", "PDF", "JPEG2000"])
def test_other_formats_are_not_opened_whatever_their_name(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_: pytest.fail("Ghostscript was called"))
    with pytest.raises(InputError, match=r"^photo\.jpg: not an image in JPEG, PNG or WebP"):
        open_image(encoded(picture(), kind), "photo.jpg")


def test_the_three_formats_and_a_phones_mpo_are_opened() -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        assert open_image(encoded(picture(), kind)).size == (40, 30)
        assert image_size(encoded(picture(), kind)) == (40, 30)
    several = encoded(picture(), "MPO", save_all=True, append_images=[picture()])
    assert open_image(several).format == "MPO"


@pytest.mark.parametrize(
    "data",
    [
        png_that_claims(50_000, 50_000),
        png_that_claims(10_000, 8_000),
        png_that_claims(2**31 - 1, 2**31 - 1),
        webp_that_claims(16_384, 16_384, b"VP8X"),
        webp_that_claims(2**24, 2**24, b"VP8X"),
        webp_that_claims(16_384, 16_384, b"VP8L"),
        webp_that_claims(16_383, 16_383, b"VP8 "),
    ],
)
def test_a_size_that_is_claimed_is_not_believed(data: bytes) -> None:
    for read in (open_image, image_size):
        with pytest.raises(InputError, match=r"^a\.png: decompression bomb: "):
            read(data, "a.png")


def test_a_jpeg_of_very_many_scans_is_refused_before_they_are_read() -> None:
    data = encoded(Image.new("RGB", (4000, 3000)), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    hostile = data[:scan] + data[scan : scan + 16] * 300 + data[scan:]
    with pytest.raises(InputError, match=r"a\.jpg: decompression bomb: 4000x3000 in 3\d\d scans"):
        open_image(hostile, "a.jpg")
    assert open_image(data).size == (4000, 3000)


def test_what_is_damaged_ends_in_the_callers_error() -> None:
    class OwnError(ValueError):
        pass

    whole = encoded(_noise("RGB", 3))
    for data in (whole[: len(whole) // 2], whole[:40], b"", b"\x89PNG\r\n\x1a\n", bytes(100)):
        with pytest.raises(OwnError):
            open_image(data, error=OwnError)
    with pytest.raises(OwnError, match="bytes, at most"):
        image_size(bytes(MAX_IMAGE_BYTES + 1), error=OwnError)


def test_a_picture_is_turned_when_asked_and_never_twice() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "JPEG", exif=exif)
    assert (open_image(data).size, open_image(data, upright=True).size) == ((40, 30), (30, 40))
    assert open_image(data, upright=True).getexif().get(0x0112) is None


def test_strips_give_the_pixels_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (_grey16, _palette, _keyed, lambda: _noise("RGBA", 4), lambda: _noise("LA", 2)):
        image = make()
        whole = to_rgb(image).tobytes()
        monkeypatch.setattr("emo_lightning.core.images._STRIP", 7 * 40)
        assert to_rgb(image).tobytes() == whole
        monkeypatch.undo()
