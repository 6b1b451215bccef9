"""simplejpeg decodes what Pillow would, to the same bytes; what Pillow says of a file remains the last word."""

from __future__ import annotations

import io
import pickle
import random
from collections import Counter

import numpy as np
import pytest
from PIL import ExifTags, Image

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import encoded, open_image, rgb_image, to_rgb
from emo_lightning.core.jpegs import DecodedImage
from emo_lightning.models.families.patches import resized_pixels


def _made(draw: random.Random, mode: str = "RGB", size: tuple[int, int] | None = None) -> Image.Image:
    size = size or (draw.randint(1, 150), draw.randint(1, 150))
    numbers = np.random.default_rng(draw.randrange(2**32))
    coarse = numbers.integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = smooth + numbers.integers(-8, 9, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def _as_jpeg(draw: random.Random, size: tuple[int, int] | None = None) -> bytes:
    rgb = draw.random() < 0.8
    options: dict[str, object] = {
        # Pillow cannot write large ones of the best.
        "quality": draw.choice([10, 75, 90, 100] if size is None else [75, 90]),
        "subsampling": draw.choice(["4:4:4", "4:2:2", "4:2:0"]),
        "progressive": draw.random() < 0.3,
        "optimize": draw.random() < 0.3,
        "restart_marker_blocks": draw.choice([0, 0, 1, 5]),
    }
    if rgb and draw.random() < 0.1:
        options |= {"keep_rgb": True, "subsampling": "4:4:4"}
    return encoded(_made(draw, "RGB" if rgb else "L", size), "JPEG", **options)


LARGE = (800, 600)
"""Of such a picture Pillow is given one piece of the file after another, as of photographs."""


def _by_pillow(data: bytes) -> np.ndarray | str:
    try:
        return np.asarray(to_rgb(open_image(data, "x.jpg", upright=True)))
    except InputError as refused:
        return str(refused)


def _by_us(data: bytes) -> np.ndarray | str:
    try:
        return np.asarray(rgb_image(data, "x.jpg"))
    except InputError as refused:
        return str(refused)


def _same(data: bytes) -> bool:
    theirs, ours = _by_pillow(data), _by_us(data)
    return ours == theirs if isinstance(theirs, str) or isinstance(ours, str) else np.array_equal(ours, theirs)


def test_whole_files_are_decoded_to_pillows_bytes() -> None:
    draw = random.Random(1)
    files = [*(_as_jpeg(draw) for _ in range(300)), *(_as_jpeg(draw, LARGE) for _ in range(20))]
    assert sum(len(data) > 1 << 16 for data in files) >= 15
    assert all(isinstance(rgb_image(data), DecodedImage) for data in files)
    assert [number for number, data in enumerate(files) if not _same(data)] == []


def _damaged(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    at = draw.randrange(2, len(changed))
    match draw.choice(["cut", "flipped", "inserted", "deleted", "no end", "more"]):
        case "cut":
            del changed[at:]
        case "flipped":
            for _ in range(draw.choice([1, 1, 20])):
                changed[draw.randrange(2, len(changed))] ^= 1 << draw.randrange(8)
        case "inserted":
            changed[at:at] = draw.randbytes(draw.randint(1, 20))
        case "deleted":
            del changed[at : at + draw.randint(1, 20)]
        case "no end":
            del changed[-2:]
        case "more":
            changed += draw.randbytes(50)
    return bytes(changed)


def test_of_damaged_files_pixels_and_refusals_are_pillows(capfd: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(2)
    files = [*(_damaged(_as_jpeg(draw), draw) for _ in range(600)), *(_damaged(_as_jpeg(draw, LARGE), draw) for _ in range(40))]
    assert [number for number, data in enumerate(files) if not _same(data)] == []
    kinds = Counter(isinstance(_by_pillow(data), str) for data in files)
    assert min(kinds[True], kinds[False]) > 100, "both kinds are met"
    decoded = [_by_us(data) for data in files if is_plain(data)]
    assert len(decoded) > 20, "not all of them are left to Pillow"
    assert capfd.readouterr() == ("", ""), "libjpeg says nothing by itself"


def is_plain(data: bytes) -> bool:
    try:
        return isinstance(rgb_image(data), DecodedImage)
    except InputError:
        return False


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(_made(random.Random(3)), "JPEG", exif=exif)


@pytest.mark.parametrize("orientation", range(10))
def test_files_that_say_how_they_are_turned(orientation: int) -> None:
    assert _same(_turned(orientation))


def test_other_kinds_are_left_to_pillow() -> None:
    draw = random.Random(4)
    cmyk = encoded(_made(draw, "CMYK"), "JPEG")
    files = [cmyk, encoded(_made(draw), "PNG"), encoded(_made(draw), "WEBP"), encoded(_made(draw, "RGBA"), "PNG")]
    assert not any(isinstance(rgb_image(data), DecodedImage) for data in files)
    assert all(_same(data) for data in files)


def test_a_phones_file_with_a_second_picture_behind_the_first() -> None:
    first, second = _made(random.Random(5)), _made(random.Random(6))
    stream = io.BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[second])
    assert isinstance(rgb_image(stream.getvalue()), DecodedImage)
    assert _same(stream.getvalue())


def test_what_is_made_of_it_is_what_pillow_makes_of_its_own() -> None:
    data = encoded(_made(random.Random(7)), "JPEG")
    theirs = to_rgb(open_image(data))

    def ours() -> Image.Image:
        return rgb_image(data)

    assert (ours().size, ours().mode) == (theirs.size, theirs.mode)
    assert ours().tobytes() == theirs.tobytes()
    assert ours().copy().tobytes() == theirs.tobytes()
    assert ours().crop((1, 2, 9, 8)).tobytes() == theirs.crop((1, 2, 9, 8)).tobytes()
    assert ours().resize((5, 6)).tobytes() == theirs.resize((5, 6)).tobytes()
    assert ours().getpixel((3, 4)) == theirs.getpixel((3, 4))
    assert encoded(ours(), "PNG") == encoded(theirs, "PNG")
    assert pickle.loads(pickle.dumps(ours())).tobytes() == theirs.tobytes()
    assert resized_pixels(ours(), (20, 30)).equal(resized_pixels(theirs, (20, 30)))


def test_the_array_follows_what_is_painted() -> None:
    image = rgb_image(encoded(_made(random.Random(8)), "JPEG"))
    assert isinstance(image, DecodedImage)
    before = image.array()
    kept = before.copy()
    image.paste((1, 2, 3), (0, 0, *image.size))
    assert (image.array() == (1, 2, 3)).all()
    assert np.array_equal(before, kept), "an array that was given earlier is nobody's to change"


def test_a_size_that_is_not_the_headers_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(_made(random.Random(9)), "JPEG")
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda _: np.zeros((2, 2, 3), dtype=np.uint8))
    assert not isinstance(rgb_image(data), DecodedImage)
