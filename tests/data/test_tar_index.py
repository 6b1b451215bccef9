"""TarIndex: what other readers read, and never fewer samples than were written."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import pickle
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image

from emo_lightning.core.records import SCHEMA_VERSION, Record
from emo_lightning.core.remote import RemoteStore
from emo_lightning.core.shard_manifests import unfinished_manifest
from emo_lightning.core.stores import LocalStore
from emo_lightning.data import tar_index as module
from emo_lightning.data.images import open_rgb_image
from emo_lightning.data.shard_list import list_shards
from emo_lightning.data.tar_content import data_hash
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.inference.inputs import are_tars
from tests.patience import PATIENCE


def picture(number: int, extension: str = "png", size: tuple[int, int] | None = None) -> bytes:
    width, height = size or (8 + number % 5, 6 + number % 3)
    pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, {"jpg": "jpeg"}.get(extension, extension))
    return out.getvalue()


def record(number: int, image: bytes, **changes: object) -> bytes:
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    fields = {
        "id": f"s{number:03d}",
        "source": "test",
        "width": width,
        "height": height,
        "sha256": hashlib.sha256(image).hexdigest(),
        "split": "train" if number % 3 else "test",
        "emotion": "awe",
    }
    return Record.model_validate({**fields, **changes}).to_json()


def sample(number: int, extension: str = "png", des: bool = False) -> dict[str, bytes]:
    """Members by name."""
    image = picture(number, extension)
    members = {f"s{number:03d}.json": record(number, image), f"s{number:03d}.{extension}": image}
    if des:
        out = io.BytesIO()
        np.save(out, np.arange(4, dtype=np.float32) + number)
        members[f"s{number:03d}.des.npy"] = out.getvalue()
    return members


Members = Mapping[str, bytes] | Sequence[tuple[str, bytes]]
"""Of a tar: name and bytes."""


def write_tar(path: Path, members: Members, format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format) as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def many(numbers: Iterable[int], *, des: bool = False) -> dict[str, bytes]:
    return {name: data for number in numbers for name, data in sample(number, des=des).items()}


def write_manifest(folder: Path, **changes: object) -> None:
    entries = [
        {
            "file": tar.name,
            "count": len(TarIndex.open(tar)),
            "bytes": tar.stat().st_size,
            "sha256": hashlib.sha256(tar.read_bytes()).hexdigest(),
        }
        for tar in sorted(folder.glob("*.tar"))
    ]
    (folder / "manifest.json").write_text(json.dumps({"schema_version": SCHEMA_VERSION, "shards": entries, **changes}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of four samples."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(3):
        write_tar(folder / f"d-{shard:06d}.tar", many(range(4 * shard, 4 * shard + 4), des=shard == 1))
    return folder


KEYS = [f"s{number:03d}" for number in range(12)]


def keys(index: TarIndex) -> list[str]:
    return [index.key(row) for row in range(len(index))]


def test_ways_to_name_shards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[str | Path | Sequence[str | Path]] = [
        folder,
        str(folder),
        folder / "*.tar",
        f"{folder}/d-{{000000..000002}}.tar",
        f"file://{folder}/d-{{000000..000002}}.tar",
        sorted(folder.glob("*.tar")),
        [folder / "d-000000.tar", f"{folder}/d-00000[12].tar"],
    ]
    for way in ways:
        assert keys(TarIndex.open(way)) == KEYS
    monkeypatch.chdir(folder)
    assert keys(TarIndex.open("d-{0..0}00000.tar")) == KEYS[:4]


def test_reads_what_was_written(folder: Path) -> None:
    index = TarIndex.open(folder)
    for row in range(12):
        members = sample(row, des=4 <= row < 8)
        assert index.record_bytes(row) == members[f"s{row:03d}.json"]
        assert index.record(row).id == index.key(row)
        assert index.image_bytes(row) == (members[f"s{row:03d}.png"], "png")
        image = index.image(row)
        assert (image.mode, image.size) == ("RGB", (index.record(row).width, index.record(row).height))
        both = index.sample(row)
        assert (both[0], both[1].tobytes()) == (index.record(row), image.tobytes())
        des = index.des(row)
        if 4 <= row < 8:
            assert des is not None
            assert des.dtype == np.float32
            assert des.tolist() == [row, row + 1, row + 2, row + 3]
        else:
            assert des is None
    assert [(shard.path[-8:-4], shard.start, shard.stop) for shard in index.shards] == [
        ("0000", 0, 4),
        ("0001", 4, 8),
        ("0002", 8, 12),
    ]


def test_des_of_the_record_where_the_tar_has_none(tmp_path: Path) -> None:
    image = picture(1)
    path = write_tar(tmp_path / "a.tar", {"s001.png": image, "s001.json": record(1, image, des=[0.5, 1.5])})
    des = TarIndex.open(path).des(0)
    assert des is not None
    assert des.tolist() == [0.5, 1.5]


def test_select_and_fingerprint(folder: Path, tmp_path: Path) -> None:
    index = TarIndex.open(folder)
    test = index.select(lambda r: r.split == "test")
    assert keys(test) == ["s000", "s003", "s006", "s009"]
    assert test.image_bytes(2)[0] == picture(6)
    assert [(shard.start, shard.stop) for shard in test.shards] == [(0, 2), (2, 3), (3, 4)]
    assert len(index.select(lambda r: False)) == 0
    assert index.select(lambda r: False).shards == []

    moved = tmp_path / "moved"
    folder.rename(moved)
    again = TarIndex.open(moved)
    assert again.fingerprint == index.fingerprint  # where it lies does not matter
    assert again.select(lambda r: r.split == "test").fingerprint == test.fingerprint != index.fingerprint
    content, named_content = again.content, again.named_content
    renamed = [moved / f"d-{number:06d}.tar" for number in range(3)]
    for number, path in enumerate(renamed):
        renamed[number] = path.rename(path.with_name(f"x{number}.tar"))
    named = TarIndex.open(renamed)
    assert (named.fingerprint, named.content) == (again.fingerprint, content)  # nor what it is called
    assert named.named_content != named_content
    assert TarIndex.open(renamed[::-1]).content != content
    for number, path in enumerate(renamed):
        path.rename(moved / f"d-{number:06d}.tar")
    last = TarIndex.open(moved / "d-000002.tar")
    assert last.fingerprint == again.take(range(8, 12)).fingerprint
    write_tar(moved / "d-000002.tar", many([8, 9, 10, 13]))
    assert TarIndex.open(moved).fingerprint != index.fingerprint


def _child(index: TarIndex, queue: Queue[list[str]]) -> None:
    queue.put([hashlib.sha256(index.image_bytes(row)[0]).hexdigest() for row in range(len(index))])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pickled_and_read_in_other_processes(folder: Path, method: str) -> None:
    index = TarIndex.open(folder)
    expected = [index.record(row).sha256 for row in range(12)]  # opens the files in this process first
    assert [pickle.loads(pickle.dumps(index)).record(row).sha256 for row in range(12)] == expected
    context: Any = multiprocessing.get_context(method)  # the base class has no `Process`
    queue = context.Queue()
    processes = [context.Process(target=_child, args=(index, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=PATIENCE) for _ in processes] == [expected, expected]
    for process in processes:
        process.join()


def test_more_shards_than_descriptors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_OPEN", 2)
    index = TarIndex.open(folder)
    for row in [0, 4, 8, 1, 5, 9, 0]:
        assert index.record(row).id == index.key(row)
    assert len(index._stores) <= 2


# --- the same as other readers ---------------------------------------------------------------------------------------


@pytest.fixture
def written_by_webdataset(tmp_path: Path) -> Path:
    path = tmp_path / "w-000000.tar"
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for number in range(7):
            extension = ("png", "webp", "jpg", "jpeg")[number % 4] if number else "png"
            image = picture(number, extension)
            parts = {extension: image, "json": record(number, image), "txt": b"a text", "cls": b"3"}
            writer.write({"__key__": f"s{number:03d}", **parts})
    return path


def test_agrees_with_webdataset(written_by_webdataset: Path) -> None:
    index = TarIndex.open(written_by_webdataset)
    theirs = list(webdataset.WebDataset(str(written_by_webdataset), shardshuffle=False))
    assert [s["__key__"] for s in theirs] == keys(index)
    assert index.ignored == 14
    for row, other in enumerate(theirs):
        image, extension = index.image_bytes(row)
        assert other[extension] == image
        assert other["json"] == index.record_bytes(row)


def test_folders_in_names_and_meta_members(tmp_path: Path) -> None:
    image = picture(1)
    members = {"__meta__/x.json": b"{}", "README": b"", "a/b.c/s001.json": record(1, image), "a/b.c/s001.PNG": image}
    path = write_tar(tmp_path / "a.tar", members)
    index = TarIndex.open(path)
    assert keys(index) == ["a/b.c/s001"] == [s["__key__"] for s in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert index.record(0).id == "s001"
    assert index.ignored == 2


def test_agrees_with_datasets(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    index = TarIndex.open(folder / "d-000001.tar")
    files = {"train": [str(folder / "d-000001.tar")]}
    theirs = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    theirs = theirs.cast_column("png", datasets.Image(decode=False))
    assert theirs["__key__"] == keys(index)
    for row, other in enumerate(theirs):
        assert other["png"]["bytes"] == index.image_bytes(row)[0]
        assert other["json"] == json.loads(index.record_bytes(row))


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format(tmp_path: Path, format: int) -> None:
    deep = "/".join(["d" * 60] * (2 if format == tarfile.USTAR_FORMAT else 6))
    path = write_tar(tmp_path / "a.tar", {f"{deep}/{name}": data for name, data in many(range(3)).items()}, format)
    index = TarIndex.open(path)
    assert keys(index) == [f"{deep}/s{number:03d}" for number in range(3)]
    assert index.image_bytes(2)[0] == picture(2)


def test_pax_size_and_times_and_folders(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "global"}) as tar:
        entry = tarfile.TarInfo("x")
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        for name, data in many(range(2)).items():
            info = tarfile.TarInfo(f"x/{name}")
            info.size = len(data)
            info.mtime = 1.5  # a fraction makes a PAX header of every member
            info.pax_headers = {"size": str(len(data))}
            tar.addfile(info, io.BytesIO(data))
    assert keys(TarIndex.open(path)) == ["x/s000", "x/s001"]


# --- damage ----------------------------------------------------------------------------------------------------------


def _everything(path: Path) -> list[tuple[str, bytes, tuple[bytes, str], bytes]]:
    index = TarIndex.open(path)
    return [(index.key(r), index.record_bytes(r), index.image_bytes(r), index.image(r).tobytes()) for r in range(len(index))]


def _header_offsets(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        return [member.offset for member in tar.getmembers()]


def test_no_flipped_header_byte_loses_a_sample(tmp_path: Path) -> None:
    """Every byte of every header, and every bit of a byte in turn."""
    path = write_tar(tmp_path / "a.tar", many(range(2)))
    whole, expected = path.read_bytes(), _everything(path)
    survived = 0
    for header in _header_offsets(path):
        for offset in range(header, header + 512):
            damaged = bytearray(whole)
            damaged[offset] ^= 1 << (offset + header // 512) % 8
            path.write_bytes(damaged)
            try:
                found = _everything(path)
            except ShardError as error:
                assert str(path) in str(error)  # noqa: PT017
                assert "byte" in str(error)  # noqa: PT017
                continue
            survived += 1
            assert found == expected
            assert header + 148 <= offset < header + 156  # the text of the checksum itself has idle characters
    assert survived <= 4 * 8


def test_no_flipped_byte_anywhere_changes_a_sample_unnoticed(tmp_path: Path) -> None:
    """With a manifest everything is caught; without one all but a JSON value that is still valid."""
    path = write_tar(tmp_path / "a.tar", many(range(2)))
    write_manifest(tmp_path)
    whole, expected = path.read_bytes(), [(key, image) for key, _, image, _ in _everything(path)]
    order = random.Random(0)
    for offset in order.sample(range(len(whole)), 300):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << order.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(ShardError):
            TarIndex.open(path, verify=True)
        try:
            found = _everything(path)
        except ShardError:
            continue
        assert [(key, image) for key, _, image, _ in found] == expected


def test_truncation_at_every_block(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", many(range(3)))
    whole, expected = path.read_bytes(), _everything(path)
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    for length in range(0, len(whole), 512):
        path.write_bytes(whole[:length])
        if length < end + 1024:
            with pytest.raises(ShardError, match=r"truncated|empty"):
                TarIndex.open(path)
        else:
            # The end-of-archive blocks are whole, what lacks is tar's padding to 10,240 bytes: not every writer pads.
            assert _everything(path) == expected
    for length in (1, 511, 700, end - 1, end + 1023):
        path.write_bytes(whole[:length])
        with pytest.raises(ShardError, match="truncated"):
            TarIndex.open(path)


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damage_in_extended_headers(tmp_path: Path, format: int) -> None:
    path = write_tar(tmp_path / "a.tar", {f"{'d' * 120}/{name}": data for name, data in many(range(2)).items()}, format)
    whole = path.read_bytes()
    for length in range(0, 4096, 512):
        path.write_bytes(whole[:length])
        with pytest.raises(ShardError):
            TarIndex.open(path)
    damaged = bytearray(whole)
    damaged[512 + 1] ^= 0x40  # in the body of the first extended header, which no checksum guards
    path.write_bytes(damaged)
    with pytest.raises(ShardError):
        TarIndex.open(path)


def test_trailing_garbage_and_single_zero_block(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", many(range(2)))
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    with pytest.raises(ShardError, match=rf"byte {len(whole)}: garbage after the end"):
        TarIndex.open(path)
    path.write_bytes(whole + whole)  # tar -A without -i: the second half would be lost in silence
    with pytest.raises(ShardError, match="garbage after the end"):
        TarIndex.open(path)
    end = len(whole.rstrip(b"\0"))
    end += -end % 512
    path.write_bytes(whole[:end] + bytes(512) + whole[:512] + bytes(1024))
    with pytest.raises(ShardError, match="single zero block"):
        TarIndex.open(path)


def _without(*names: str) -> list[tuple[str, bytes]]:
    return [(name, data) for name, data in many(range(2)).items() if name not in names]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (_without("s000.json"), r"key 's000' has no json member"),
        (_without("s001.png"), r"key 's001' has no image member"),
        ({"s000.jpg": picture(0, "jpg"), **sample(0)}, r"key 's000' has two members for image: 'jpg', 'png'"),
        ([*sample(0).items(), *sample(1).items(), *sample(0).items()], r"key 's000' comes again after other keys"),
        ([*sample(0).items(), ("s000.json", b"{}")], r"key 's000' has two members for json"),
        ({"README.txt": b"nothing"}, r"holds no samples \(1 other members\)"),
        ({}, r"holds no samples"),
    ],
)
def test_incomplete_or_repeated_samples(tmp_path: Path, members: Members, message: str) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ShardError, match=message) as caught:
        TarIndex.open(path)
    assert str(path) in str(caught.value)


def test_same_key_in_two_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", many(range(2)))
    write_tar(tmp_path / "b.tar", many(range(1, 3)))
    with pytest.raises(ShardError, match=r"b\.tar: key 's001' stands in .*a\.tar:s001 already"):
        TarIndex.open(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"s000.json": b"{not json"}, r"a\.tar:s000\.json: not JSON"),
        ({"s000.json": b"{}"}, r"a\.tar:s000\.json: key 'id': is missing"),
        ({"s000.json": record(1, picture(0))}, r"a\.tar:s000\.json: key 'id': found 's001'; expected .* 's000'"),
        ({"s000.png": picture(7)}, r"a\.tar:s000\.png: sha256 of the bytes is .* the record says"),
        ({"s000.json": record(0, picture(0), width=50)}, r"a\.tar:s000\.png: image is 8x6, its record says 50x6"),
    ],
)
def test_bad_members_are_named_when_read(tmp_path: Path, changed: dict[str, bytes], message: str) -> None:
    index = TarIndex.open(write_tar(tmp_path / "a.tar", {**many(range(2)), **changed}))
    with pytest.raises(ShardError, match=message):
        index.image(0)
    index.image(1)


def test_image_that_does_not_decode(tmp_path: Path) -> None:
    image = picture(0, size=(64, 64))
    for data in (image[: len(image) // 2], b"no image at all", b""):
        content = record(0, image, sha256=hashlib.sha256(data).hexdigest())
        index = TarIndex.open(write_tar(tmp_path / "a.tar", {"s000.json": content, "s000.png": data}))
        with pytest.raises(ShardError, match=r"s000\.png: (does not decode|not an image)"):
            index.image(0)


def test_sha256_can_be_left_unchecked(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"s000.json": record(0, picture(0), sha256="0" * 64), "s000.png": picture(0)})
    assert TarIndex.open(path, check_sha256=False).image(0).size == (8, 6)
    with pytest.raises(ShardError, match="sha256"):
        TarIndex.open(path).image_bytes(0)


@pytest.mark.parametrize("value", [np.zeros((2, 2), np.float32), np.array([1.0, np.nan]), np.array([1, 2])])
def test_bad_des(tmp_path: Path, value: NDArray[np.generic]) -> None:
    out = io.BytesIO()
    np.save(out, value)
    index = TarIndex.open(write_tar(tmp_path / "a.tar", {**sample(0), "s000.des.npy": out.getvalue()}))
    with pytest.raises(ShardError, match=r"s000\.des\.npy: .* expected finite floats of shape"):
        index.des(0)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("s000.png")
        info.type, info.linkname = kind, "s001.png"
        tar.addfile(info)
    with pytest.raises(ShardError, match=r"byte 0: member 's000.png' is of type"):
        TarIndex.open(path)


def test_not_a_tar(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"")
    with pytest.raises(ShardError, match=r"a\.tar: the file is empty"):
        TarIndex.open(path)
    path.write_bytes(picture(1, size=(40, 40)))
    with pytest.raises(ShardError, match=r"a\.tar: byte 0: not a tar archive"):
        TarIndex.open(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "x.py")
    with pytest.raises(ShardError, match="gzip: unpack it first"):
        TarIndex.open(path)


def test_missing_and_misnamed(tmp_path: Path) -> None:
    cases: list[tuple[str | Path | list[str | Path], str]] = [
        (tmp_path / "no.tar", r"no\.tar: cannot be read: No such file"),
        (tmp_path / "*.tar", "no file matches"),
        (tmp_path, "holds neither"),
        ([], "no shards given"),
        ("nowhere://bucket/a.tar", r"nowhere://bucket/a\.tar: cannot be read: Protocol not known: nowhere"),
        ("memory://bucket/a.tar", r"memory://bucket/a\.tar: cannot be read: no such file"),
        ("a-{3..1}.tar", "runs backwards"),
        (f"{tmp_path}/a-{{000000..000002}}.tar", r"a-000000\.tar: cannot be read"),
    ]
    for given, message in cases:
        with pytest.raises(ShardError, match=message):
            TarIndex.open(given)
    path = write_tar(tmp_path / "a.tar", many(range(1)))
    with pytest.raises(ShardError, match="listed twice"):
        TarIndex.open([path, tmp_path])


def test_a_place_that_fsspec_knows(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        fsspec.filesystem("memory").pipe_file(f"/shards/{path.name}", path.read_bytes())
    index = TarIndex.open("memory://shards/d-{000000..000002}.tar")
    assert keys(index) == KEYS
    assert index.image_bytes(5)[0] == picture(5)
    assert index.fingerprint == TarIndex.open(folder).fingerprint
    store = pickle.loads(pickle.dumps(RemoteStore("memory://shards/d-000000.tar")))
    whole = (folder / "d-000000.tar").read_bytes()
    assert store.size == len(whole)
    assert store.read(100, 50) == whole[100:150]
    assert store.read(len(whole) - 10, 50) == whole[-10:]
    assert store.read(len(whole), 50) == b""


def test_a_copied_store_has_its_own_descriptor(folder: Path) -> None:
    store = LocalStore(str(folder / "d-000000.tar"))
    copy = pickle.loads(pickle.dumps(store))
    assert copy._descriptor != store._descriptor
    del copy
    assert len(store.read(0, 512)) == 512


def test_changed_after_it_was_indexed(folder: Path) -> None:
    index = TarIndex.open(folder)
    write_tar(folder / "d-000000.tar", many(range(1)) | {"s900.txt": bytes(20_000)})
    with pytest.raises(ShardError, match=r"d-000000\.tar: has \d+ bytes, had \d+ when it was indexed"):
        index.record(0)


def test_a_glob_and_a_range_are_held_against_the_manifest_beside_them(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_manifest(folder)
    ways = [str(folder / "*.tar"), str(folder / "d-*"), f"{folder}/d-{{000000..000002}}.tar", f"{folder.parent}/*/d-0*.tar"]
    for way in ways:
        assert [shard.entry is None for shard in list_shards(way)] == [False] * 3
        assert keys(TarIndex.open(way)) == KEYS
    content = json.loads((folder / "manifest.json").read_text())
    for key, value, message in [("count", 5, "has 4 samples"), ("bytes", 5, r"has \d+ bytes")]:
        write_manifest(folder, shards=[content["shards"][0] | {key: value}, *content["shards"][1:]])
        for way in ways:
            with pytest.raises(ShardError, match=message):
                TarIndex.open(way)
        assert keys(TarIndex.open(folder / "d-000000.tar")) == KEYS[:4]  # named by itself, it is what it is

    write_manifest(folder)
    (folder / "d-000001.tar").unlink()
    for way in (ways[0], ways[1], ways[3]):
        with pytest.raises(ShardError) as gone:
            TarIndex.open(way)
        assert str(gone.value) == (
            f"{way}: {folder}/manifest.json lists d-000001.tar, which is not there; restore what is missing, name the tars that are there "
            "one by one, or remove manifest.json"
        )
    with pytest.raises(ShardError, match=r"d-000001\.tar: cannot be read"):
        TarIndex.open(ways[2])
    # What was asked for is there.
    for way in (f"{folder}/d-{{000000..000000}}.tar", f"{folder}/*0.tar"):
        assert keys(TarIndex.open(way)) == KEYS[:4]
    assert keys(TarIndex.open([folder / "d-000000.tar", folder / "d-000002.tar"])) == KEYS[:4] + KEYS[8:]
    assert not caplog.text
    (folder / "manifest.json").unlink()
    assert keys(TarIndex.open(ways[0])) == KEYS[:4] + KEYS[8:]


def test_what_a_glob_matches_and_the_manifest_does_not_list(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is passed over where other matches are listed, as in a folder; else the manifest says nothing of what the glob means."""
    write_manifest(folder)
    alone = data_hash(folder)
    write_tar(folder / "e-000000.tar", many([50]))
    assert data_hash(str(folder / "*.tar")) == data_hash(folder) == alone
    assert f"{folder}: 1 tars are not in manifest.json and are not read: e-000000.tar" in caplog.text
    assert keys(TarIndex.open(str(folder / "e-*.tar"))) == ["s050"]
    assert keys(TarIndex.open(str(folder / "e-{000000..000000}.tar"))) == ["s050"]


@pytest.mark.parametrize("text", ["{", "[]", '{"shards": 3}', '{"schema_version": 7}', "\x00"])
def test_a_manifest_of_somebody_else_beside_a_glob_says_nothing(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    for way in (str(folder / "*.tar"), f"{folder}/d-{{000000..000002}}.tar", folder / "d-000000.tar"):
        assert keys(TarIndex.open(way)) == KEYS[: 4 if isinstance(way, Path) else 12]


def test_a_glob_of_tars_that_a_broken_off_export_does_not_name(folder: Path) -> None:
    """Of one that has written nothing yet, or beside it."""
    for names in ([], ["n-train-000000.tar"]):
        (folder / "manifest.json").write_text(json.dumps(unfinished_manifest("n", names)))
        for way in (str(folder / "d-*.tar"), f"{folder}/d-{{000000..000002}}.tar"):
            assert keys(TarIndex.open(way)) == KEYS
    for refused in (folder, folder / "*.tar"):  # the latter may have missed one
        with pytest.raises(ShardError, match="broke off: run it again"):
            TarIndex.open(refused)


def test_tars_in_letters_of_either_case_are_read_and_what_is_passed_over_is_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "d-000002.tar").rename(folder / "d-000002.TAR")
    assert keys(TarIndex.open(folder)) == KEYS
    assert are_tars(str(folder / "d-000002.TAR"))
    assert not caplog.text
    (folder / "d-000000.tar").rename(folder / "d-000000.tar.gz")
    (folder / "below").mkdir()
    (folder / "d-000001.tar").rename(folder / "below/d-000001.Tar")
    (folder / "e.TGZ").touch()
    assert keys(TarIndex.open(folder)) == KEYS[8:]
    said = "3 that are compressed or lie in folders below: d-000000.tar.gz, e.TGZ, below/d-000001.Tar"
    assert f"{folder}: of its tars {said}; they are not read" in caplog.text
    (folder / "d-000002.TAR").unlink()
    with pytest.raises(ShardError, match=f"the folder holds neither \\*.tar nor manifest.json, but {said}"):
        TarIndex.open(folder)


def test_manifest(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_manifest(folder)
    assert keys(TarIndex.open(folder, verify=True)) == KEYS
    assert keys(TarIndex.open(folder / "d-000001.tar", verify=True)) == KEYS[4:8]
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())

    write_tar(folder / "extra.tar", many([50]))
    assert keys(TarIndex.open(folder)) == KEYS
    assert "1 tars are not in manifest.json" in caplog.text
    with pytest.raises(ShardError, match=r"does not list 'extra\.tar'"):
        TarIndex.open(folder / "extra.tar", verify=True)

    for key, value, message in [
        ("count", 5, "has 4 samples"),
        ("bytes", 5, r"has \d+ bytes"),
        ("sha256", "0" * 64, "sha256 is"),
    ]:
        changed = json.loads(json.dumps(content))
        changed["shards"][1][key] = value
        manifest.write_text(json.dumps(changed))
        with pytest.raises(ShardError, match=rf"d-000001\.tar: {message}"):
            TarIndex.open(folder, verify=True)

    for text, message in [
        (json.dumps({**content, "schema_version": 99}), "key 'schema_version': found 99; this version reads"),
        (json.dumps({**content, "shards": [{}]}), "key 'shards\\[0\\]': key 'file': found nothing"),
        (json.dumps({**content, "shards": []}), "lists no shards"),
        ("{", "not JSON"),
    ]:
        manifest.write_text(text)
        with pytest.raises(ShardError, match=message):
            TarIndex.open(folder)
    manifest.unlink()
    with pytest.raises(ShardError, match=r"nothing to verify with; expected manifest\.json"):
        TarIndex.open(folder, verify=True)


def test_shard_named_by_the_manifest_is_missing(folder: Path) -> None:
    write_manifest(folder)
    (folder / "d-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"d-000001\.tar: cannot be read"):
        TarIndex.open(folder)


# --- names and pictures that other readers take for something else -------------------------------------------------------


def renamed(numbers: Iterable[int], change: Mapping[int, str]) -> dict[str, bytes]:
    """Samples whose members are named otherwise than their records."""
    return {
        name.replace(f"s{number:03d}", change.get(number, f"s{number:03d}"), 1): data
        for number in numbers
        for name, data in sample(number).items()
    }


@pytest.mark.parametrize("lost", [{1: "s.001"}, {0: "s.000", 1: "s.001"}, {1: "s000.001"}, {1: "s..001"}, {1: "x.y/s.001"}])
def test_names_with_dots_are_refused(tmp_path: Path, lost: dict[int, str]) -> None:
    path = write_tar(tmp_path / "a.tar", renamed(range(2), lost))
    first = next(iter(lost.values()))
    with pytest.raises(ShardError, match=rf"a.tar: {len(lost)} samples have a dot in their name .*'{first}.json'"):
        TarIndex.open(path)


def test_parts_beside_a_sample_are_counted_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mask of the same key is no sample of its own."""
    path = write_tar(tmp_path / "a.tar", {**sample(0), "s000.mask.png": picture(3), "s000.txt": b"", "README": b""})
    index = TarIndex.open(path)
    assert (keys(index), index.ignored) == (["s000"], 3)
    assert "members 1 mask.png, 1 txt, 1 no ending" in capsys.readouterr().err


def test_names_that_are_one_to_somebody_else_are_told_apart_or_refused(tmp_path: Path) -> None:
    """What `tar cf a.tar ./*` writes beside the same without `./`; endings in capitals; one letter composed in two ways."""
    dotted = {
        name.replace("s000", "S.000").replace(".png", ".PNG").replace(".json", ".JSON"): d for name, d in sample(0).items()
    }
    for members, message in (
        (sample(0) | {f"./{name}": data for name, data in sample(0).items()}, r"'\./s000' stands in .*:s000 already"),
        (dotted, r"1 samples have a dot in their name .*S\.000\."),
        (
            {("e\u0301" if name.endswith("png") else "\u00e9") + name[4:]: data for name, data in sample(0).items()},
            "has no (json|image) member",
        ),
    ):
        with pytest.raises(ShardError, match=message):
            TarIndex.open(write_tar(tmp_path / "a.tar", members))


@pytest.mark.parametrize("together", [True, False])
def test_one_name_in_two_folders_is_refused(tmp_path: Path, together: bool) -> None:
    """Answers and features are kept by it."""
    tars = [{f"{folder}/{name}": data for name, data in sample(0).items()} for folder in "xy"]
    paths = [write_tar(tmp_path / f"{n}.tar", tar) for n, tar in enumerate([tars[0] | tars[1]] if together else tars)]
    with pytest.raises(ShardError, match=r"'y/s000' stands in .*x/s000 already; names must be unique"):
        TarIndex.open(paths)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_the_same_from_a_file_and_from_a_tar(tmp_path: Path, orientation: int) -> None:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "png", exif=exif)
    (tmp_path / "a.png").write_bytes(out.getvalue())
    file = open_rgb_image(tmp_path / "a.png")
    size = {"width": file.width, "height": file.height}
    path = write_tar(tmp_path / "a.tar", {"s001.json": record(1, out.getvalue(), **size), "s001.png": out.getvalue()})
    assert TarIndex.open(path).image(0).tobytes() == file.tobytes()
    if orientation > 4:
        path = write_tar(tmp_path / "b.tar", {"s001.json": record(1, out.getvalue()), "s001.png": out.getvalue()})
        with pytest.raises(ShardError, match=r"image is 6x10 \(as its EXIF turns it\), its record says 10x6"):
            TarIndex.open(path).image(0)
