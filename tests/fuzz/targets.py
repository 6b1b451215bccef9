"""Every reader with a whole input of its kind, from which the mutations start."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data_prep.provider.openai_batches import read_results
from data_prep.provider.openai_received import read_chat
from data_prep.provider.prices import load_prices
from emo_lightning.core.arrays import parse_npy
from emo_lightning.core.files import parse_yaml, read_object
from emo_lightning.core.images import open_image, to_rgb
from emo_lightning.core.records import Prediction, Record
from emo_lightning.data.shard_list import read_manifest
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.report.page import read_page
from tests.data.test_tar_index import many


class Target(NamedTuple):
    """A reader; it may give anything, and raise nothing but a `UserError`."""

    read: Callable[[bytes], object]
    whole: list[bytes]


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in many(range(1), des=True).items():
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"comment": "ü"}
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (24, 16), (9, 80, 200)).save(out, kind)
    return out.getvalue()


def _npy() -> bytes:
    out = io.BytesIO()
    np.save(out, np.arange(6.0))
    return out.getvalue()


def _through(folder: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A reader of files, fed with bytes."""

    def run(data: bytes) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return run


def _samples(path: Path) -> None:
    index = TarIndex.open(path)
    for row in range(len(index)):
        index.sample(row)
        index.des(row)


def targets(folder: Path) -> dict[str, Target]:
    """Readers by name.

    Args:
        folder: for the files that some of them read.
    """
    record = {
        "id": "a", "source": "s", "width": 40, "height": 30, "sha256": "0" * 64, "split": "train", "emotion": "awe", "intensity": 5,
        "emotion_scores": {"awe": 1.0}, "confidence": 0.5, "description": "d", "des": [0.5],
        "objects": [{"phrase": "p", "bbox": [1, 2, 3, 4], "score": 1, "mask": {"size": [30, 40], "counts": "abc"}}],
        "provenance": {"votes": [{"a": "b"}]},
    }  # fmt: skip
    reply = {
        "id": "x", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "{}"}}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 2},
    }  # fmt: skip
    line = {"custom_id": "a", "response": {"status_code": 200, "body": reply}, "error": None}
    table = {"title": "t", "columns": ["a", "b"], "rows": [["x", {"value": 1, "low": 0, "high": 2}]]}
    page = {"title": "p", "tables": [table], "figures": [{"title": "f", "file": "a.svg"}], "notes": ["n"]}
    manifest = {"schema_version": 1, "shards": [{"file": "a.tar", "count": 1, "bytes": 3, "sha256": "0" * 64}]}
    settings = b"a: &x [1, 2.5, 2026-01-01, true]\nb: {<<: {c: *x}, d: 'text'}\n"
    prices = b"models:\n  m: {input: 1.0, output: 2.0}\n"
    return {
        "record": Target(lambda data: Record.from_json(data, "f"), [_json(record)]),
        "prediction": Target(lambda data: Prediction.from_json(data, "f"), [_json(record)]),
        "manifest": Target(_through(folder, "manifest.json", read_manifest), [_json(manifest)]),
        "settings, JSON": Target(_through(folder, "a.json", read_object), [_json(manifest)]),
        "settings, YAML": Target(lambda data: parse_yaml(data.decode("utf-8", "replace"), "f"), [settings]),
        "prices": Target(_through(folder, "prices.yaml", load_prices), [prices]),
        "page.json": Target(_through(folder, "page.json", read_page), [_json(page)]),
        "tar": Target(_through(folder, "a.tar", _samples), [_tar()]),
        "picture": Target(
            lambda data: to_rgb(open_image(data, "f", upright=True)), [_picture(k) for k in ("JPEG", "PNG", "WEBP")]
        ),
        "npy": Target(lambda data: parse_npy(data, "f"), [_npy()]),
        "chat reply": Target(read_chat, [_json(reply)]),
        "batch lines": Target(read_results, [_json(line) + b"\n" + _json(line)]),
    }
