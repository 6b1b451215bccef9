"""Records, pictures, tars, arrays and weights."""

from __future__ import annotations

import io
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import save

from emo_lightning.core.arrays import parse_npy, read_npz
from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.core.files import parse_yaml, read_object
from emo_lightning.core.image_metadata import without_metadata
from emo_lightning.core.images import open_image, rgb_image, to_rgb
from emo_lightning.core.parquet import parquet_table
from emo_lightning.core.records import Prediction, Record
from emo_lightning.core.shard_manifests import read_manifest
from emo_lightning.core.weight_files import tensor_headers
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.tar_index import TarIndex
from tests.data.test_tar_index import many
from tests.fuzz.target import Make, Target, as_json, through

_RECORD = {
    "id": "a",
    "source": "s",
    "width": 40,
    "height": 30,
    "sha256": "0" * 64,
    "split": "train",
    "emotion": "awe",
    "intensity": 5,
    "emotion_scores": {"awe": 1.0},
    "confidence": 0.5,
    "description": "d",
    "des": [0.5],
    "objects": [{"phrase": "p", "bbox": [1, 2, 3, 4], "score": 1, "mask": {"size": [30, 40], "counts": "abc"}}],
    "provenance": {"votes": [{"a": "b"}]},
}
_SETTINGS = b"a: &x [1, 2.5, 2026-01-01, true]\nb: {<<: {c: *x}, d: 'text'}\n"
MANIFEST = {"schema_version": 1, "shards": [{"file": "a.tar", "count": 1, "bytes": 3, "sha256": "0" * 64}]}


def _tar(folder: Path) -> Target:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in many(range(1), des=True).items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"comment": "ü"}
            tar.addfile(info, io.BytesIO(data))

    def samples(path: Path) -> None:
        index = TarIndex.open(path)
        for row in range(len(index)):
            index.sample(row)
            index.des(row)

    return Target(through(folder / "a.tar", samples), [out.getvalue()])


def _picture(_: Path) -> Target:
    def coded(kind: str, **options: object) -> bytes:
        out = io.BytesIO()
        Image.new("RGB", (24, 16), (9, 80, 200)).save(out, kind, **options)
        return out.getvalue()

    def read(data: bytes) -> None:
        to_rgb(open_image(data, "f", upright=True))
        rgb_image(data, "f")
        without_metadata(data)

    exif = Image.Exif()
    exif[0x0112] = 6
    return Target(read, [*map(coded, ("JPEG", "PNG", "WEBP")), coded("JPEG", exif=exif, comment=b"c", xmp=b"<x/>")])


def _npy(_: Path) -> Target:
    out = io.BytesIO()
    np.save(out, np.arange(6.0))
    return Target(lambda data: parse_npy(data, "f"), [out.getvalue()])


def _npz(folder: Path) -> Target:
    stored, packed = io.BytesIO(), io.BytesIO()
    np.savez(stored, a=np.arange(6.0))
    np.savez_compressed(packed, a=np.arange(6.0), b=np.array(["x"]))
    return Target(through(folder / "a.npz", read_npz), [stored.getvalue(), packed.getvalue()])


def _weights(folder: Path) -> Target:
    data = save({"a.b": torch.ones(2, 3), "c": torch.zeros(4, dtype=torch.int64)}, {"format": "pt"})
    return Target(through(folder / "a.safetensors", tensor_headers), [data])


def _checkpoint(folder: Path) -> Target:
    out = io.BytesIO()
    state = {
        "epoch": 1,
        "global_step": 2,
        "state_dict": {"a": torch.ones(3)},
        "optimizer_states": [],
        "lr_schedulers": [],
        "loops": {"x": [1.5, "a", None]},
    }
    torch.save({**state, "pytorch-lightning_version": "2.5"}, out)
    return Target(through(folder / "last.ckpt", read_checkpoint), [out.getvalue()], one_of=2)


def _parquet(folder: Path) -> Target:
    out = io.BytesIO()
    rows = [{"id": "a", "emotion": "awe", "split": "x", "des": [1.0, 2.0], "more": {"when": 1, "list": [[1], None]}}] * 4
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), out)
    return Target(through(folder / "a.parquet", parquet_table), [out.getvalue()], one_of=50)


def _embeddings(folder: Path) -> Target:
    EmbeddingTable(["a", "b"], ["awe", None], ["x", "x"], np.ones((2, 3), np.float32)).write(folder / "des.parquet")
    path = folder / "des.parquet"
    return Target(through(path, EmbeddingTable.read), [path.read_bytes()], one_of=50)


def _file(name: str, read: object, content: object, folder: Path) -> Target:
    assert callable(read)
    return Target(through(folder / name, read), [as_json(content)])


FORMATS: dict[str, Make] = {
    "record": lambda _: Target(lambda data: Record.from_json(data, "f"), [as_json(_RECORD)]),
    "prediction": lambda _: Target(lambda data: Prediction.from_json(data, "f"), [as_json(_RECORD)]),
    "manifest": partial(_file, "manifest.json", read_manifest, MANIFEST),
    "settings, JSON": partial(_file, "a.json", read_object, MANIFEST),
    "settings, YAML": lambda _: Target(lambda data: parse_yaml(data.decode("utf-8", "replace"), "f"), [_SETTINGS]),
    "tar": _tar,
    "picture": _picture,
    "npy": _npy,
    "npz": _npz,
    "safetensors": _weights,
    "checkpoint": _checkpoint,
    "parquet": _parquet,
    "embeddings": _embeddings,
}
