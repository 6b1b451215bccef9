from __future__ import annotations

import io
import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from data_prep.cli import main
from data_prep.sources import SourceError, SourceItem, SourceRefusal, open_source
from data_prep.sources.base import PassedOver
from data_prep.sources.images import ImageError, check_image
from data_prep.store.rows import item_id
from data_prep.store.store import Store
from tests.data_prep.conftest import picture


def pixel(image: Image.Image, place: tuple[int, int]) -> tuple[int, ...]:
    value = image.getpixel(place)
    assert isinstance(value, tuple)
    return value


def test_folder_reads_what_is_an_image_and_refuses_the_rest(tmp_path: Path) -> None:
    tree = tmp_path / "photos"
    (tree / "a b").mkdir(parents=True)
    (tree / "a b" / "one.png").write_bytes(picture(1))
    (tree / "two.JPG").write_bytes(picture(2, kind="JPEG"))
    (tree / "really_webp.jpg").write_bytes(picture(3, kind="WEBP"))
    (tree / "broken.jpg").write_bytes(picture(4, kind="JPEG")[:200])
    (tree / "text.png").write_text("no image")
    (tree / "notes.txt").write_text("ignored")
    outside = tmp_path / "secret.png"
    outside.write_bytes(picture(5))
    (tree / "link.png").symlink_to(outside)
    (tree / "outside").symlink_to(tmp_path)
    (tree / "dangling.png").symlink_to(tmp_path / "nowhere.png")

    found = list(open_source("folder").read(tree))
    items = {i.key: i for i in found if isinstance(i, SourceItem)}
    refused = {Path(r.file).name: r.reason for r in found if isinstance(r, SourceRefusal) and not isinstance(r, PassedOver)}

    assert set(items) == {"a b/one.png", "two.JPG", "really_webp.jpg"}
    assert items["really_webp.jpg"].extension == "webp"
    assert items["two.JPG"].image == picture(2, kind="JPEG"), "an upright image keeps its bytes"
    assert set(refused) == {"broken.jpg", "text.png", "link.png", "outside", "dangling.png"}
    assert [Path(r.file).name for r in found if isinstance(r, PassedOver)] == ["notes.txt"]
    assert "link out of the tree" in refused["link.png"]
    assert [str(i) for i in open_source("folder").read(tree)] == [str(i) for i in found], "the order is stable"


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied_once(orientation: int) -> None:
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 32, 32))
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, exif=exif)

    checked = check_image(out.getvalue())
    with Image.open(io.BytesIO(checked.data)) as upright:
        assert upright.getexif().get(0x0112, 1) == 1
        assert upright.size == (checked.width, checked.height) == ((64, 32) if orientation < 5 else (32, 64))
        # The white half lies where the tag says: 2, 3 mirror it to the right, 6 turns it to the top, 7 and 8 to the bottom, ….
        white = {2: (60, 16), 3: (60, 16), 4: (4, 16), 5: (16, 4), 6: (16, 4), 7: (16, 60), 8: (16, 60)}[orientation]
        assert min(pixel(upright, white)) > 200
    assert check_image(checked.data).data == checked.data


def test_a_decompression_bomb_is_refused_before_it_is_decoded() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0" * 1000)) + chunk(b"IEND", b"")
    with pytest.raises(ImageError, match="decompression bomb"):
        check_image(bomb)


@pytest.mark.parametrize(
    ("size", "kind", "message"), [((8, 8), "PNG", "sides"), ((2000, 20), "PNG", "aspect"), ((40, 40), "GIF", "GIF")]
)
def test_absurd_images_are_refused(size: tuple[int, int], kind: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        check_image(picture(1, size, kind))


def test_unknown_source_and_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="unknown source 'emoset2'; allowed: folder, urls"):
        open_source("emoset2")
    with pytest.raises(SourceError, match="no such folder"):
        list(open_source("folder").read(tmp_path / "none"))


def test_import_twice_adds_once_and_sees_changes(tmp_path: Path) -> None:
    tree = tmp_path / "photos"
    tree.mkdir()
    for seed in range(3):
        (tree / f"{seed}.png").write_bytes(picture(seed))
    with Store(tmp_path / "store", write=True) as store:
        source = open_source("folder")
        assert store.import_items(source.read(tree)).added == 3
        (tree / "0.png").write_bytes(picture(99))
        report = store.import_items(source.read(tree))
        assert (report.added, report.known, report.changed) == (0, 2, 1)
        items = list(store.ledger.items())
        assert {i.key for i in items} == {"0.png", "1.png", "2.png"}
        for item in items:
            store.image(item.sha256, item.extension)


def test_item_ids_are_tar_keys_and_never_collide() -> None:
    assert item_id("world", "world-train-000001") == "world-train-000001"
    keys = ["a/b.c.jpg", "a/b/c.jpg", "a-b-c.jpg", "ä.png", ".jpg", "x" * 300 + ".jpg"]
    ids = [item_id("my photos", key) for key in keys]
    assert len(set(ids)) == len(keys)
    assert all("." not in i and "/" not in i and len(i) < 90 for i in ids)


def test_names_and_links_that_would_break_an_import_are_refused_in_one_printable_line(tmp_path: Path) -> None:
    tree = tmp_path / "ein Ordner à moi"
    tree.mkdir()
    (tree / "日本 1.png").write_bytes(picture(1))
    with open(os.fsencode(tree) + b"/latin\xe9.png", "wb") as file:
        file.write(picture(2))
    (tree / "loop.png").symlink_to("loop.png")
    (tree / "red\x1b[31m\nline.png").write_text("no image")
    (tree / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    os.mkfifo(tree / "pipe.png")
    found = list(open_source("folder").read(tree))
    assert [i.key for i in found if isinstance(i, SourceItem)] == ["日本 1.png"]
    reasons = {Path(r.file).name: r for r in found if isinstance(r, SourceRefusal)}
    assert "name is not UTF-8" in reasons["latin\udce9.png"].reason
    assert "link in a circle" in reasons["loop.png"].reason
    assert "not a regular file" in reasons["pipe.png"].reason
    assert reasons["phone.HEIC"].reason == "format not read: .heic, allowed: JPEG, PNG, WebP"
    assert all(str(refusal).isprintable() for refusal in reasons.values())
    refused = tmp_path / "refused.jsonl"
    assert main(["import", "folder", str(tree), "--into", str(tmp_path / "s"), "--refusals", str(refused)]) == 0
    assert {json.loads(line)["file"] for line in refused.read_text().splitlines()} == {r.file for r in reasons.values()}


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> Image.Image:
    """As every reader of the store sees it."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    checked = check_image(out.getvalue())
    assert check_image(checked.data).data == checked.data
    return Image.open(io.BytesIO(checked.data))


def test_sixteen_bits_of_grey_do_not_turn_white() -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16))
    seen = np.asarray(stored(deep).convert("RGB"))[..., 0].astype(int)
    assert np.abs(seen - np.linspace(0, 255, 64 * 64).reshape(64, 64)).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_lies_on_white_and_what_is_opaque_stays(kind: str) -> None:
    layers = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    layers.paste((0, 0, 200, 255), (0, 0, 20, 40))
    seen = stored(layers, kind, **({"lossless": True} if kind == "WEBP" else {})).convert("RGB")
    assert min(pixel(seen, (35, 20))) > 250, "the hidden red must not show"
    assert np.abs(np.subtract(pixel(seen, (4, 20)), (0, 0, 200))).max() < 12
    opaque = Image.new("RGBA", (40, 40), (1, 2, 3, 255))
    assert stored(opaque).mode == "RGBA"


def test_a_turned_photograph_keeps_its_colour_profile() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = stored(Image.new("RGB", (64, 32), "red"), "JPEG", exif=exif, icc_profile=profile)
    assert turned.size == (32, 64)
    assert turned.info["icc_profile"] == profile


def test_a_store_that_lost_a_file_is_mended_by_importing_again(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        (tmp_path / "photos" / f"{seed}.png").write_bytes(picture(seed))
    with Store(tmp_path / "s", write=True) as store:
        source = open_source("folder")
        store.import_items(source.read(tmp_path / "photos"))
        first, second = store.ledger.items()
        store.image_path(first.sha256, "png").write_bytes(b"")
        store.image_path(second.sha256, "png").unlink()
        assert store.import_items(source.read(tmp_path / "photos")).known == 2
        for item in (first, second):
            store.image(item.sha256, "png")


def test_an_import_that_finds_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["import", "folder", str(tmp_path / "empty"), "--into", str(tmp_path / "s")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'empty'}: there is nothing of the source folder in it\n"
