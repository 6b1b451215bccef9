"""The index beside a tar: as good as the tar itself, and never believed where it is not of its bytes."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.export import write_shards
from emo_lightning.core.records import Record
from emo_lightning.core.shard_index import (
    INDEX_ROW,
    LABEL_BITS,
    ShardIndex,
    build_index,
    index_path,
    label_bits,
    read_index,
    save_index,
)
from emo_lightning.core.stores import LocalStore
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data import shard_indices
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.sampler import Slot
from emo_lightning.data.shard_indices import find_index
from emo_lightning.data.tar_content import data_hash
from emo_lightning.data.tar_index import ShardError, TarIndex
from tests.data.test_tar_index import many, picture, record, sample, write_tar


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Eight samples, some with an embedding."""
    return write_tar(tmp_path / "a.tar", many(range(4)) | many(range(4, 8), des=True))


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tars that are read whole from now on."""
    names: list[str] = []

    def build(store: LocalStore, name: str, labels: TarLabels | None) -> ShardIndex:
        names.append(Path(name).name)
        return build_index(store, name, labels)

    monkeypatch.setattr(shard_indices, "build_index", build)
    return names


def same(a: ShardIndex, b: ShardIndex) -> bool:
    return a.same_places(b) and (a.content, a.texts, a.rows.tobytes()) == (b.content, b.texts, b.rows.tobytes())


def flip(path: Path, offset: int, bit: int) -> None:
    """In place, as a disk does."""
    with open(path, "r+b") as file:
        file.seek(offset)
        (value,) = file.read(1)
        file.seek(offset)
        file.write(bytes([value ^ 1 << bit]))


def test_it_is_made_once_and_made_again_where_the_tar_changes(tar: Path, built: list[str]) -> None:
    first = TarIndex.open(tar)
    assert built == ["a.tar"]
    for _ in range(3):
        again = TarIndex.open(tar)
        assert (again.content, data_hash(tar)) == (first.content, data_hash(tar))
    assert built == ["a.tar"]
    write_tar(tar, many(range(3)))
    assert len(TarIndex.open(tar)) == 3
    assert built == ["a.tar"] * 2
    os.utime(tar, (1, 1))  # touched, copied, moved: read again, and found to be the same
    TarIndex.open(tar)
    TarIndex.open(tar)
    assert built == ["a.tar"] * 3


def test_nothing_is_read_to_open_and_select(world_tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a training asks of its records before the first step; then each is read once a sample, and its image once."""
    data = ConversationDataModule([str(world_tars / "*train*")], [str(world_tars / "*val*")], {"attributes": 1, "emotion": 1})
    for name in data.paths:
        TarIndex.open(data.paths[name])
    reads: list[int] = []
    read = LocalStore.read

    def counted(store: LocalStore, offset: int, length: int) -> bytes:
        reads.append(length)
        return read(store, offset, length)

    monkeypatch.setattr(LocalStore, "read", counted)
    data.setup("fit")
    assert reads == []
    assert data.dataset("train")[Slot(3, False)].record is not None
    assert len(reads) == 2


@pytest.mark.parametrize(
    "changes", [{}, {"description": ""}, {"description": "x", "provenance": {"group": "g"}}, {"objects": []}]
)
def test_labels_that_are_there_and_not(changes: dict[str, object], tmp_path: Path) -> None:
    image = picture(1)
    index = TarIndex.open(write_tar(tmp_path / "a.tar", {"s001.json": record(1, image, **changes), "s001.png": image}))
    one = index.record(0)
    assert {name for name in LABEL_BITS if index.has(name)[0]} == {
        *(name for name in LABEL_BITS if name != "described" and getattr(one, name) not in (None, [])),
        *(["described"] if one.description else []),
    }
    assert index.groups() == [one.provenance.get("group")]
    assert label_bits(one) == sum(1 << bit for bit, name in enumerate(LABEL_BITS) if index.has(name)[0])


def test_an_invalid_record_is_named_when_records_are_asked_for(tmp_path: Path) -> None:
    index = TarIndex.open(write_tar(tmp_path / "a.tar", {**many(range(2)), "s001.json": b"{}"}))
    for ask in (index.sizes, index.splits, index.groups, index.hashes, lambda: index.has("emotion")):
        with pytest.raises(ShardError, match=r"a\.tar:s001\.json: key 'id': is missing"):
            ask()
    assert index.take([0]).sizes().shape == (1, 2)


@pytest.mark.parametrize("ending", ["json", "png", "des.npy"])
@pytest.mark.parametrize("opened", [False, True], ids=["before it is opened", "while it is open"])
def test_every_flipped_bit_of_a_member_is_found(tar: Path, ending: str, opened: bool) -> None:
    order = random.Random(0)
    index, whole = TarIndex.open(tar), tar.read_bytes()
    with tarfile.open(tar) as archive:
        members = [member for member in archive if member.name.endswith(ending)]
    read: Callable[[int], object] = {"json": index.record, "png": index.image_bytes, "des.npy": index.des}[ending]
    for _ in range(250 if opened else 50):
        member = order.choice(members)
        place = member.offset_data + order.randrange(member.size), order.randrange(8)
        flip(tar, *place)
        with pytest.raises(
            ShardError, match=rf"a\.tar:{member.name}: CRC-32 of the bytes is \w{{8}}, .*a\.index\.npz says \w{{8}}"
        ):
            read(int(member.name[1:4])) if opened else TarIndex.open(tar)
        flip(tar, *place)
    assert tar.read_bytes() == whole
    assert TarIndex.open(tar).content == index.content


def test_a_damaged_index_is_found_and_made_anew(tar: Path, built: list[str], caplog: pytest.LogCaptureFixture) -> None:
    expected = TarIndex.open(tar)
    place, order = index_path(tar), random.Random(0)
    whole = place.read_bytes()
    good = read_index(whole, place)
    found = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[order.randrange(len(whole))] ^= 1 << order.randrange(8)
        try:
            assert same(read_index(bytes(damaged), place), good)
        except ShardError as error:
            found += 1
            assert "a.index.npz" in str(error)  # noqa: PT017
    assert found > 200  # the rest are dates and modes, which say nothing of the columns
    for length in range(0, len(whole), 500):
        with pytest.raises(ShardError):
            read_index(whole[:length], place)
    place.write_bytes(whole[:-100])
    assert TarIndex.open(tar).content == expected.content
    assert (place.read_bytes(), built) == (whole, ["a.tar"] * 2)
    assert "a.index.npz: not an .npz file" in caplog.text


def test_an_index_that_points_elsewhere_is_refused(tar: Path) -> None:
    good = find_index(str(tar), LocalStore(str(tar))).content
    for name, value in (("json_o", good.size), ("image_l", -1), ("format", 9), ("split", 99), ("group", -2)):
        rows = good.rows.copy()
        rows[name][3] = value
        save_index(ShardIndex(good.size, good.content, good.ignored, good.keys, good.texts, rows), index_path(tar))
        with pytest.raises(ShardError, match="it points outside of it"):
            read_index(index_path(tar).read_bytes(), "x")


def test_of_another_tar_of_the_same_length(tmp_path: Path) -> None:
    """An index that was copied with its tar and stamped: reading finds it out, whatever the clock says."""
    for name, numbers in (("a", [0, 1]), ("b", [1, 0])):
        write_tar(tmp_path / f"{name}.tar", many(numbers))
    assert (tmp_path / "a.tar").stat().st_size == (tmp_path / "b.tar").stat().st_size
    TarIndex.open(tmp_path / "a.tar")
    shutil.copy(index_path(tmp_path / "a.tar"), index_path(tmp_path / "b.tar"))
    changed = (tmp_path / "b.tar").stat().st_ctime_ns
    os.utime(index_path(tmp_path / "b.tar"), ns=(changed, changed))
    with pytest.raises(ShardError, match=r"b\.tar:s000\.json: "):
        TarIndex.open(tmp_path / "b.tar").record(0)


def test_a_tar_of_equal_length_written_anew_is_told_from_the_old_one(tar: Path) -> None:
    before = data_hash(tar)
    TarIndex.open(tar)
    members = many(range(4)) | many(range(4, 8), des=True)
    members["s001.json"] = record(1, picture(1), source="tesu")
    write_tar(tar, members)
    assert data_hash(tar) != before
    with pytest.raises(
        ShardError, match=r"s001\.json: .* or was written anew; restore it, or remove the index if it was meant"
    ):
        TarIndex.open(tar)
    index_path(tar).unlink()
    assert TarIndex.open(tar).record(1).source == "tesu"


def test_where_the_folder_cannot_be_written(
    tar: Path, built: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As root may write everywhere: a folder in the place of the index stands for one without permission."""
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "cache"))
    index_path(tar).mkdir()
    content = TarIndex.open(tar).content
    assert TarIndex.open(tar).content == content
    assert built == ["a.tar"]
    assert len(list((tmp_path / "cache/indices").iterdir())) == 1
    monkeypatch.setenv("EMO_CACHE", str(tar))  # nowhere at all
    assert TarIndex.open(tar).content == content
    assert built[1:] == ["a.tar"] * (len(built) - 1) != []


def test_an_export_writes_it(world_tars: Path, built: list[str], tmp_path: Path) -> None:
    assert len(TarIndex.open(world_tars)) == 40
    assert built == []
    for path in world_tars.glob("*.tar"):
        there = read_index(index_path(path).read_bytes(), path)
        assert same(there, build_index(LocalStore(str(path)), "x"))
    moved = tmp_path / "moved"
    shutil.copytree(world_tars, moved)
    assert TarIndex.open(moved).content == TarIndex.open(world_tars).content
    assert len(built) == len(list(moved.glob("*.tar")))


def test_an_export_of_other_labels_replaces_it(tmp_path: Path, built: list[str]) -> None:
    for emotion in ("awe", "sad"):
        members = sample(1)
        one = Record.from_json(members["s001.json"], "x").model_copy(update={"source": emotion})
        write_shards([(one, members["s001.png"], "png")], tmp_path, "toy")
        assert TarIndex.open(tmp_path).record(0).source == emotion
    assert built == []


def test_members_longer_than_a_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", many(range(4)) | {"z.txt": bytes(range(256)) * 40})
    expected = build_index(LocalStore(str(path)), "a")
    monkeypatch.setattr("emo_lightning.core.shard_index._AHEAD", 1000)
    assert same(build_index(LocalStore(str(path)), "a"), expected)
    digest = hashlib.sha256()
    with tarfile.open(path) as archive:
        for member in archive:
            body = archive.extractfile(member)
            assert body is not None
            digest.update(f"{member.name}\0{member.size}\0{crc32(body.read()):08x}\n".encode())
    assert expected.content == digest.hexdigest()
    assert np.array_equal(expected.rows["format"], [1, 1, 1, 1])
    assert expected.ignored == {"txt": 1}
    assert set(INDEX_ROW.names or ()) >= {"json_c"}


def crc32(data: bytes) -> int:
    """Written out, as a reader of our files would: CRC-32 of IEEE 802.3."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
