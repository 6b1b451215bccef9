"""An image file without what it says beside its pixels."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageCms, PngImagePlugin

from emo_lightning.core.image_metadata import without_metadata

SECRETS = (b"SecretMaker", b"secret comment", b"SecretXmp", b"SecretText", b"SecretIptc", b"SecretTail")
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture() -> Image.Image:
    noise = Image.effect_noise((40, 24), 60)
    return Image.merge("RGB", (noise, noise.rotate(180), noise.transpose(Image.Transpose.FLIP_TOP_BOTTOM)))


def exif(orientation: int | None = None) -> Image.Exif:
    made = Image.Exif()
    made[0x010F] = "SecretMaker"
    made.get_ifd(0x8825)[1] = "N"
    if orientation:
        made[0x0112] = orientation
    return made


def saved(kind: str, *, secret: bool, orientation: int | None = None, progressive: bool = False) -> bytes:
    out = io.BytesIO()
    if not secret:
        picture().save(out, kind, icc_profile=PROFILE, progressive=progressive)
        return out.getvalue()
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "SecretText")
    text.add_itxt("XML:com.adobe.xmp", "SecretXmp")
    more: dict[str, object] = {"pnginfo": text} if kind == "PNG" else {"xmp": b"SecretXmp"}
    if kind == "JPEG":
        more |= {"comment": b"secret comment", "progressive": progressive}
    picture().save(out, kind, icc_profile=PROFILE, exif=exif(orientation), **more)
    data = out.getvalue()
    if kind == "JPEG":
        iptc = b"Photoshop 3.0\0SecretIptc"
        data = data[:2] + b"\xff\xed" + (len(iptc) + 2).to_bytes(2, "big") + iptc + data[2:]
    return data + b"SecretTail"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pixels_and_profile_stay_and_nothing_else(kind: str, progressive: bool) -> None:
    data = saved(kind, secret=True, progressive=progressive)
    assert sum(secret in data for secret in SECRETS) >= 2
    clean = without_metadata(data)
    assert not [secret for secret in SECRETS if secret in clean]
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(clean))
    assert after.tobytes() == before.tobytes()
    assert after.info["icc_profile"] == PROFILE
    assert not after.getexif()
    assert without_metadata(clean) is clean


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_says_nothing_is_the_same_object(kind: str, progressive: bool) -> None:
    data = saved(kind, secret=False, progressive=progressive)
    assert without_metadata(data) is data


def test_what_is_to_be_turned_is_turned() -> None:
    clean = without_metadata(saved("JPEG", secret=True, orientation=6))
    image = Image.open(io.BytesIO(clean))
    assert image.size == (24, 40)
    assert not image.getexif()
    assert image.info["icc_profile"] == PROFILE
    assert not [secret for secret in SECRETS if secret in clean]


def test_a_second_picture_behind_the_first_stays_at_home() -> None:
    out = io.BytesIO()
    picture().save(out, "MPO", save_all=True, append_images=[picture()], exif=exif())
    clean = without_metadata(out.getvalue())
    assert clean.count(b"\xff\xd8\xff") == 1
    assert Image.open(io.BytesIO(clean)).format == "JPEG"


def test_what_is_no_image_is_left_alone() -> None:
    assert without_metadata(b"{}") == b"{}"
