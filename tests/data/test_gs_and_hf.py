"""Data on Google Cloud Storage and on the Hugging Face hub, by stand-ins on loopback: written, read, trained from, each range once."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from fsspec.registry import _registry
from gcsfs.core import GCSFileSystem

from data_prep.export import write_shards
from emo_lightning.core.errors import InputError
from emo_lightning.core.remote import RemoteError, RemoteStore
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.features import FeatureCache, FeatureWriter
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.supervision import Supervision
from emo_lightning.data.tar_content import data_hash
from emo_lightning.data.tar_index import TarIndex
from tests.commands.hub import Hub, hub_served
from tests.data.test_s3 import samples, world
from tests.storage_servers import CloudStorage, served

SPEAKS_GRPC = importlib.util.find_spec("gcsfs.extended_gcsfs") is not None
"""Whether this gcsfs has the part that `RemoteStore` does without; older ones have none."""


def _extended() -> type[GCSFileSystem]:
    from gcsfs.extended_gcsfs import ExtendedGcsFileSystem

    return ExtendedGcsFileSystem


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EMO_SHARD_CACHE", "")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Iterator[CloudStorage]:
    """What `gs://` means."""
    found = CloudStorage()
    with served(answer=found) as (address, _):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        # As where something else of this process has imported gcsfs before, for example Lightning.
        if SPEAKS_GRPC:
            monkeypatch.setitem(_registry, "gs", _extended())
        monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        GCSFileSystem.clear_instance_cache()
        yield found
        GCSFileSystem.clear_instance_cache()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """What `hf://` means."""
    with hub_served(monkeypatch, tmp_path) as found:
        fsspec.filesystem("hf").clear_instance_cache()
        yield found
        fsspec.filesystem("hf").clear_instance_cache()


def trained_on(where: str, workers: int) -> list[tuple[str, bytes]]:
    """Keys and pictures of a shuffled epoch."""
    source = ConversationDataModule([f"{where}/set-train-*.tar"], [f"{where}/set-train-000000.tar"], {"emotion": 1.0})
    dataset = source.dataset("train")
    batches = EpochBatches(len(dataset), 3, seed=1)
    loader: ResumableLoader[Any] = ResumableLoader(dataset, batches, collate_fn=list, num_workers=workers)
    return [(question.key, question.image.tobytes()) for batch in loader for question in batch]


def test_cloud_storage(cloud: CloudStorage, tmp_path: Path) -> None:
    here = write_shards(world(12), tmp_path / "here", "set", 4)
    assert write_shards(world(12), "gs://bucket/folder/whole", "set", 4) == here
    assert cloud.objects["bucket"] == {f"folder/whole/{path.name}": path.read_bytes() for path in (tmp_path / "here").iterdir()}
    local, far = TarIndex.open(tmp_path / "here"), TarIndex.open("gs://bucket/folder/whole", verify=True)
    assert samples(far) == samples(local)
    assert (far.content, data_hash("gs://bucket/folder/whole/*.tar")) == (local.content, data_hash(tmp_path / "here"))
    # An export of fewer shards takes the place of the one before.
    write_shards(world(4), "gs://bucket/folder/whole", "set", 4)
    assert RemoteFolder("gs://bucket/folder/whole").names("*.tar") == ["set-train-000000.tar"]
    with pytest.raises(RemoteError, match=r"gs://bucket/none\.tar: cannot be read: no such file"):
        RemoteStore("gs://bucket/none.tar")


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_from_cloud_storage(cloud: CloudStorage, tmp_path: Path, workers: int) -> None:
    write_shards(world(12), tmp_path / "here", "set", 4)
    write_shards(world(12), "gs://bucket/whole", "set", 4)
    assert trained_on("gs://bucket/whole", workers) == trained_on(str(tmp_path / "here"), 0)
    # Each sample once, and each index; nothing once more.
    assert cloud.ranges <= 12 + 3
    cloud.ranges = 0
    trained_on("gs://bucket/whole", workers)
    assert cloud.ranges == 0


def test_a_range_in_cloud_storage_where_nobody_may_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not there is answered as what nobody may read."""
    found = CloudStorage()
    with served(answer=found) as (address, faulty):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
        monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        GCSFileSystem.clear_instance_cache()
        write_shards(world(8), tmp_path, "set", 4)
        found.objects["bucket"] = {path.name: path.read_bytes() for path in tmp_path.glob("set-*")}
        faulty.refuses = lambda _method, path: path.endswith(("manifest.json", "/o/", "/o"))
        index = TarIndex.open("gs://bucket/set-train-{000000..000001}.tar")
        assert samples(index) == samples(TarIndex.open(tmp_path))
        with pytest.raises(RemoteError, match=r"^gs://bucket/manifest\.json: cannot be read: Forbidden: [^(]*$"):
            RemoteFolder("gs://bucket").read("manifest.json")  # at once
        GCSFileSystem.clear_instance_cache()


def test_features_in_cloud_storage(cloud: CloudStorage, tmp_path: Path) -> None:
    with FeatureWriter(tmp_path / "here", 2, 4, torch.float32, "f", part_bytes=1) as writer:
        for row in range(3):
            writer.append(f"k{row}", torch.full((2, 3, 4), float(row)), Supervision([float("nan")] * 8, -1, float("nan")))
    folder = RemoteFolder("gs://bucket/features")
    for path in sorted((tmp_path / "here").iterdir()):
        folder.put(path, path.name)
    here, there = FeatureCache(tmp_path / "here"), FeatureCache("gs://bucket/features")
    assert there.keys == here.keys
    assert all(torch.equal(there[row].hidden, here[row].hidden) for row in range(3))


def test_a_file_in_parts(cloud: CloudStorage, tmp_path: Path) -> None:
    """As gcsfs sends those of 5 MB and more."""
    data = bytes(range(256)) * 24_000
    (tmp_path / "large").write_bytes(data)
    RemoteFolder("gs://bucket").put(tmp_path / "large", "large")
    assert RemoteStore("gs://bucket/large", cached=False).read(5_000_000, 300) == data[5_000_000:5_000_300]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_hub(hub: Hub, tmp_path: Path, workers: int) -> None:
    write_shards(world(12), tmp_path / "here", "set", 4)
    hub.files["datasets/ada/emo"] = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    local = TarIndex.open(tmp_path / "here")
    assert TarIndex.open("hf://datasets/ada/emo/").content == local.content
    hub.ranges.clear()
    assert trained_on("hf://datasets/ada/emo", workers) == trained_on(str(tmp_path / "here"), 0)
    if workers == 0:
        tars = sum(path.stat().st_size for path in (tmp_path / "here").glob("*.tar"))
        assert 0 < sum(end - start for start, end in hub.ranges) <= tars, (
            "a range is what is asked for, and nothing ahead of it"
        )
        assert samples(TarIndex.open("hf://datasets/ada/emo")) == samples(local)


@pytest.mark.skipif(not SPEAKS_GRPC, reason="this gcsfs has no part that speaks gRPC")
def test_whoever_has_imported_gcsfs_before(cloud: CloudStorage) -> None:
    """Threads of gRPC do not live in the forks of a loader, which would wait for ever."""
    assert fsspec.get_filesystem_class("gs") is _extended()
    with pytest.raises(InputError, match="no such file"):
        TarIndex.open("gs://bucket/none.tar")
    assert fsspec.get_filesystem_class("gs") is GCSFileSystem


def test_an_export_to_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.files["datasets/ada/new"] = {}
    here = write_shards(world(4), tmp_path / "here", "set", 4)
    assert write_shards(world(4), "hf://datasets/ada/new", "set", 4) == here
    assert hub.files["datasets/ada/new"] == {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    with pytest.raises(InputError, match=r"none/a\.tar: cannot be read: no such file"):
        TarIndex.open("hf://datasets/ada/none/a.tar")
