"""Data on S3, of whose answers one in twenty fails: written, read, trained from, and never seen half."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.registry import _registry

from data_prep.demo.world import World
from data_prep.export import ExportError, write_shards
from emo_lightning.core import mirrors, remote
from emo_lightning.core.block_cache import BlockCache
from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.errors import InputError
from emo_lightning.core.mirrors import local_folder
from emo_lightning.core.remote import RemoteError, RemoteStore
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.data.feature_parts import CACHE_FILES
from emo_lightning.data.features import FeatureCache, FeatureWriter
from emo_lightning.data.shard_list import list_shards
from emo_lightning.data.supervision import Supervision
from emo_lightning.data.tar_content import data_hash
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.data.vision_cache import VisionCache, VisionKey, VisionWriter
from tests.storage_servers import Faulty, served

SHARE = 0.05
"""Of the answers that fail."""


@pytest.fixture(scope="module")
def s3() -> Iterator[Faulty]:
    """A local S3 with one bucket."""
    with served(seed=3) as (address, faulty), pytest.MonkeyPatch.context() as patch:
        settings = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.setattr(remote, "_FIRST_WAIT", 0.0)
        fsspec.filesystem("s3").mkdir("s3://bucket")
        yield faulty
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(autouse=True)
def faults(s3: Faulty, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Faulty]:
    """Ours alone ask again."""
    monkeypatch.setattr(fsspec.filesystem("s3"), "retries", 1)
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "cache"))
    s3.share = SHARE
    s3.seen.clear()
    yield s3
    s3.share = 0.0
    s3.refuses = lambda _method, _path: False


def world(count: int = 24) -> list[Any]:
    return [(s.truth, s.image, s.extension) for s in World(seed=0).samples("train", count)]


def samples(index: TarIndex) -> list[tuple[str, bytes, bytes]]:
    return [(index.key(row), index.record_bytes(row), index.image_bytes(row)[0]) for row in range(len(index))]


def test_nothing_is_lost_doubled_or_altered(faults: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 8192)
    here = write_shards(world(), tmp_path / "here", "set", 4)
    there = write_shards(world(), "s3://bucket/whole", "set", 4)
    assert here == there
    monkeypatch.setattr(remote, "cache_from_environment", lambda: BlockCache(tmp_path / "blocks", 10**9))
    local, far = TarIndex.open(tmp_path / "here"), TarIndex.open("s3://bucket/whole", verify=True)
    assert samples(far) == samples(local)
    assert len(far) == 24
    assert (far.content, data_hash("s3://bucket/whole/*.tar")) == (local.content, data_hash(tmp_path / "here"))
    assert min(faults.seen[kind] for kind in ("drop", "cut", "503")) >= 1, faults.seen


BROKE_OFF = r"/manifest\.json: an export into this folder broke off: run it again"


@pytest.mark.parametrize(("case", "last"), enumerate(["000001.tar", "000000.index.npz", "README.md"]))
def test_a_half_uploaded_export_is_none(faults: Faulty, case: int, last: str) -> None:
    """Neither by its folder, nor by a glob or a range, until it has run again."""
    url = f"s3://bucket/half-{case}"
    write_shards(world(8), url, "set", 4)
    before = samples(TarIndex.open(f"{url}/"))
    faults.share = 0.0
    faults.refuses = lambda method, path: method == "PUT" and path.endswith(last)
    with pytest.raises(RemoteError, match=rf"^{url}/.*{last}: cannot be written: "):
        write_shards(world(12), url, "set", 4)
    for way in ("", "/", "/*.tar", "/set-train-*.tar", "/set-train-{000000..000001}.tar"):
        with pytest.raises(ShardError, match=BROKE_OFF):
            TarIndex.open(f"{url}{way}")
    faults.refuses = lambda _method, _path: False
    write_shards(world(4), url, "set", 4)
    index = TarIndex.open(f"{url}/")
    assert samples(index) == before[:4]
    assert RemoteFolder(url).names("*") == ["README.md", "manifest.json", "set-train-000000.index.npz", "set-train-000000.tar"]


def test_a_new_tar_never_lies_beside_the_index_of_the_old_one(faults: Faulty) -> None:
    """Who opens it at that moment would keep the index."""
    url = "s3://bucket/order"
    write_shards(world(8), url, "set", 4)
    faults.share = 0.0
    faults.refuses = lambda method, path: method == "PUT" and path.endswith("000000.index.npz")
    with pytest.raises(RemoteError):
        write_shards(world(12), url, "set", 6)
    assert RemoteFolder(url).names("*.npz") == ["set-train-000001.index.npz"]
    index = TarIndex.open(f"{url}/set-train-000000.tar")
    assert [index.record(row).id for row in range(len(index))] == [record.id for record, _, _ in world(6)]


def test_a_glob_behind_a_url_is_held_against_its_manifest(faults: Faulty) -> None:
    url = "s3://bucket/glob"
    write_shards(world(12), url, "set", 4)
    faults.share = 0.0
    for count in (2, 3):
        faults.seen.clear()
        found = list_shards(f"{url}/set-train-{{000000..00000{count - 1}}}.tar")
        assert [shard.entry is None for shard in found] == [False] * count
        assert faults.seen["GET"] == 1  # the manifest, once
    # So a place answers of what is not there, where nobody may list.
    faults.refuses = lambda _method, path: path.endswith("manifest.json")
    assert [shard.entry for shard in list_shards(f"{url}/set-train-{{000000..000002}}.tar")] == [None] * 3
    faults.refuses = lambda _method, _path: False
    faults.seen.clear()
    assert len(TarIndex.open(f"{url}/*.tar")) == 12
    assert faults.seen["HEAD"] <= 2  # of the manifest: of the tars, the listing has said it
    RemoteFolder(url).remove("set-train-000001.tar")
    with pytest.raises(ShardError, match=r"lists set-train-000001\.tar, which is not there; restore what is missing"):
        TarIndex.open(f"{url}/*.tar")
    assert len(TarIndex.open(f"{url}/*-00000[02].tar")) == 8


def test_an_index_of_the_tar_before_is_not_kept_for_the_new_one(faults: Faulty, tmp_path: Path) -> None:
    """Who looks while others write tar and index may see a new tar beside the old index, both of the same sizes as before."""
    url, name = "s3://bucket/again", "set-train-000000"
    first = world(4)
    # The same order of members, and one letter of each record another.
    second = [(one.model_copy(update={"source": one.source[:-1] + "x"}), data, extension) for one, data, extension in first]
    write_shards(first, url, "set", 4)
    write_shards(second, tmp_path / "second", "set", 4)
    faults.share = 0.0
    RemoteFolder(url).put(tmp_path / f"second/{name}.tar", f"{name}.tar")
    with pytest.raises(ShardError, match="CRC-32 of the bytes is"):
        samples(TarIndex.open(f"{url}/{name}.tar"))
    RemoteFolder(url).put(tmp_path / f"second/{name}.index.npz", f"{name}.index.npz")
    index = TarIndex.open(f"{url}/{name}.tar")
    assert [index.record(row).source[-1] for row in range(4)] == ["x"] * 4
    faults.seen.clear()
    TarIndex.open(f"{url}/{name}.tar")
    assert faults.seen["GET"] == 0, "kept: it is looked at, and not read again"


def test_a_folder_is_not_taken_for_an_empty_file(faults: Faulty) -> None:
    write_shards(world(4), "s3://bucket/folder", "set", 4)
    RemoteFolder("s3://bucket/folder").remove("manifest.json")
    with pytest.raises(
        InputError, match=r"s3://bucket/folder: is a folder; .* s3://bucket/folder/\*\.tar, .* s3://bucket/folder/$"
    ):
        TarIndex.open("s3://bucket/folder")
    assert len(TarIndex.open("s3://bucket/folder/*.tar")) == 4


def test_what_is_not_of_this_export_is_left_alone(tmp_path: Path) -> None:
    write_shards(world(4), "s3://bucket/other", "other", 4)
    with pytest.raises(ExportError, match="is of an export named 'other', not 'set'"):
        write_shards(world(4), "s3://bucket/other", "set", 4)
    (tmp_path / "README.md").write_text("mine")
    RemoteFolder("s3://bucket/card").put(tmp_path / "README.md", "README.md")
    with pytest.raises(ExportError, match="not a dataset card of an export"):
        write_shards(world(4), "s3://bucket/card", "set", 4)
    folder = RemoteFolder("s3://bucket/tars")
    for name in ("set-a-b-000000.tar", "set-train-000009.tar"):
        (tmp_path / name).write_bytes(b"mine")
        folder.put(tmp_path / name, name)
    with pytest.raises(ExportError, match=r"^s3://bucket/tars/set-train-000009\.tar: could be replaced, and no manifest"):
        write_shards(world(4), folder.url, "set", 4)
    folder.remove("set-train-000009.tar")
    for count in (8, 4):
        write_shards(world(count), folder.url, "set", 4)
    assert folder.names("*.tar") == ["set-a-b-000000.tar", "set-train-000000.tar"]


def test_a_place_that_takes_no_files_says_so_before_anything_is_made(faults: Faulty) -> None:
    def never() -> Iterator[Any]:
        raise AssertionError
        yield

    faults.share = 0.0
    with pytest.raises(RemoteError, match=r"^s3://nobucket/x/\.set\.partial: cannot be written: no such bucket or folder$"):
        write_shards(never(), "s3://nobucket/x", "set")
    url = "s3://bucket/refusing"
    faults.refuses = lambda method, _path: method == "PUT"
    with pytest.raises(RemoteError, match=rf"^{url}/\.set\.partial: cannot be written: Forbidden"):
        write_shards(never(), url, "set")
    # Nothing has to be removed where nothing is.
    faults.refuses = lambda method, _path: method == "DELETE"
    write_shards(world(4), url, "set", 4)
    with pytest.raises(RemoteError, match=rf"^{url}/\.set\.partial: cannot be removed: Forbidden"):
        write_shards(never(), url, "set")
    faults.refuses = lambda _method, _path: False
    # An export that breaks off while it is made leaves the one before as it was, and nothing else.
    with pytest.raises(AssertionError):
        write_shards(never(), url, "set")
    assert RemoteFolder(url).names("*") == ["README.md", "manifest.json", "set-train-000000.index.npz", "set-train-000000.tar"]
    assert len(TarIndex.open(f"{url}/", verify=True)) == 4


def test_features(faults: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from a URL as from a folder; copied once; a part that is not there yet is no cache."""
    with FeatureWriter(tmp_path / "here", 2, 4, torch.float32, "f", part_bytes=1) as writer:
        for row in range(6):
            writer.append(f"k{row}", torch.full((2, 3, 4), float(row)), Supervision([float("nan")] * 8, -1, float("nan")))
    folder = RemoteFolder("s3://bucket/features")
    files = sorted((tmp_path / "here").iterdir())
    for path in files[:-1]:
        folder.put(path, path.name)
    with pytest.raises(InputError, match="parts missing"):
        FeatureCache("s3://bucket/features")
    folder.put(files[-1], files[-1].name)
    here, there = FeatureCache(tmp_path / "here"), FeatureCache("s3://bucket/features")
    assert there.keys == here.keys
    assert all(torch.equal(there[row].hidden, here[row].hidden) for row in range(6))
    faults.seen.clear()
    faults.share = 0.0
    local_folder("s3://bucket/features", CACHE_FILES)
    assert faults.seen["GET"] == 1  # the listing
    monkeypatch.setenv("EMO_SHARD_CACHE_GB", "1e-7")
    with pytest.raises(InputError, match=r"s3://bucket/features: .* GB, more than EMO_SHARD_CACHE_GB \(1e-07\)"):
        local_folder("s3://bucket/features", CACHE_FILES)


def test_vision(faults: Faulty, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What one machine has computed, another one copies; a place that takes nothing stops nobody."""
    key = VisionKey("vision", {"weights": "w"})
    url = "s3://bucket/vision"
    with VisionWriter(VisionCache(tmp_path / "one", key, url)) as writer:
        for name in "abc":
            writer.append(name, torch.full((2, 4), float(ord(name))))
    other = VisionCache(tmp_path / "two", key, url)
    other.fetch(["a", "b", "c", "d"])
    assert other.missing(["a", "b", "c", "d"]) == [3]
    assert torch.equal(other.states("b"), torch.full((2, 4), float(ord("b"))))
    faults.share = 0.0
    faults.refuses = lambda method, _: method == "PUT"
    with VisionWriter(other) as writer:
        writer.append("d", torch.ones(2, 4))
    assert "what is computed here stays here" in capsys.readouterr().out
    other.look()
    assert "d" in other


@pytest.mark.parametrize("size", [24 << 20, 9 << 20], ids=["of the same size", "shorter"])
@pytest.mark.parametrize("times", [1, 10])
def test_what_is_replaced_while_it_is_copied_is_copied_anew(
    faults: Faulty, monkeypatch: pytest.MonkeyPatch, times: int, size: int
) -> None:
    """Never the first bytes of one object and the last of another."""
    faults.share = 0.0
    files, url = fsspec.filesystem("s3"), f"s3://bucket/torn-{times}-{size}"
    files.pipe_file(f"{url}/part-0.safetensors", b"A" * (24 << 20))
    letters = iter("BCDEFGHIJK"[:times])
    read = RemoteStore.read

    def replacing_read(store: RemoteStore, offset: int, length: int) -> bytes:
        if offset == 8 << 20 and (letter := next(letters, None)):
            files.pipe_file(f"{url}/part-0.safetensors", letter.encode() * size)
        return read(store, offset, length)

    monkeypatch.setattr(RemoteStore, "read", replacing_read)
    monkeypatch.setattr(mirrors, "each_at_once", map)
    if times == 1:
        copied = (local_folder(url, ["part-*.safetensors"]) / "part-0.safetensors").read_bytes()
        assert copied == b"B" * size
        return
    with pytest.raises(RemoteError, match=r"part-0\.safetensors: is written anew while it is copied \(3 times\)"):
        local_folder(url, ["part-*.safetensors"])
    assert not list(cache_folder().rglob("*.safetensors*"))


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    fsspec.filesystem("s3").clear_instance_cache()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # Another test may have used it.
    monkeypatch.delitem(_registry, "gs", raising=False)
    with pytest.raises(RemoteError) as refused:
        RemoteStore("gs://bucket/a.tar")
    assert (
        str(refused.value)
        == "gs://bucket/a.tar: cannot be read: gs:// needs the extra `storage`: pip install 'emo-lightning[storage]'"
    )


def test_an_object_is_the_same_wherever_it_lies_and_however_it_was_found(faults: Faulty) -> None:
    """A listing says other things of it than a question does."""
    faults.share = 0.0
    files = fsspec.filesystem("s3")
    for name, data in {"a/x.tar": b"one", "b/y.tar": b"one", "b/z.tar": b"two"}.items():
        files.pipe_file(f"bucket/versions/{name}", data)

    def versions() -> list[str]:
        return [
            RemoteStore(f"s3://bucket/versions/{name}", cached=False).version() for name in ("a/x.tar", "b/y.tar", "b/z.tar")
        ]

    asked = versions()
    assert asked[0] == asked[1] != asked[2]
    for folder in ("a", "b"):
        files.ls(f"bucket/versions/{folder}", refresh=True)
    assert versions() == asked
    files.pipe_file("bucket/versions/a/x.tar", b"two")
    assert versions() == [asked[2], asked[1], asked[2]]
