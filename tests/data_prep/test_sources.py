from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from data_prep.sources import Refusal, SourceError, SourceItem, open_source
from data_prep.sources.images import ImageError, check_image
from data_prep.store import Store, item_id
from tests.data_prep.conftest import picture


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
    refused = {Path(r.file).name: r.reason for r in found if isinstance(r, Refusal)}

    assert set(items) == {"a b/one.png", "two.JPG", "really_webp.jpg"}
    assert items["really_webp.jpg"].extension == "webp"
    assert items["two.JPG"].image == picture(2, kind="JPEG"), "an upright image keeps its bytes"
    assert set(refused) == {"broken.jpg", "text.png", "link.png", "outside", "dangling.png"}
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
        assert min(upright.getpixel(white)) > 200
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
    with pytest.raises(SourceError, match="unknown source 'emoset2'; allowed: folder, world"):
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
