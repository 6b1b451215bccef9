"""References and predictions as files: JSON lines, Parquet, or the records in tars. Every command reads both through here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from emo_lightning.core.emotions import SchemaError
from emo_lightning.core.foreign import MAX_LINE_BYTES, decode_json
from emo_lightning.core.parquet import parquet_rows
from emo_lightning.core.records import Prediction, Record, Reference, read_jsonl
from emo_lightning.core.shard_manifests import is_tar
from emo_lightning.core.tar_rows import TAR_IMAGE_EXTENSIONS
from emo_lightning.core.tar_scan import scan_tar
from emo_lightning.data.joined import open_shard
from emo_lightning.data.shard_list import list_shards

_I = TypeVar("_I", Reference, Record, Prediction)

JSONL_SUFFIXES, PARQUET_SUFFIXES = (".jsonl", ".ndjson"), (".parquet", ".pq")
"""Endings of files of rows. Folders, globs, URLs and what ends in `.tar` are tars; of other files their content decides."""

_MAGIC_BEGIN, _MAGIC_END = 257, 262
"""Where a tar says that it is one, bytes."""

_NESTED = ("emotion_scores", "objects", "des", "provenance")
"""Columns that a table without nested types holds as JSON text."""


def is_rows(path: str | Path) -> bool:
    """Whether a path is a file of rows."""
    return str(path).lower().endswith((*JSONL_SUFFIXES, *PARQUET_SUFFIXES)) or _of_another_name(path)


def _of_another_name(path: str | Path) -> bool:
    """Whether it is a file with an ending of its own that is no tar: JSON lines, then."""
    file = Path(path)
    if is_tar(path) or not file.exists() or file.is_dir():
        return False
    try:
        with open(file, "rb") as opened:
            return opened.read(_MAGIC_END)[_MAGIC_BEGIN:] != b"ustar"
    except OSError:
        # The reader of lines says what is wrong with it.
        return True


def read_items(path: str | Path, model: type[_I]) -> Iterator[_I]:
    """References or predictions of one place, in order.

    Args:
        path: `.jsonl` (or JSON lines of any other name), `.parquet`, or tars (a file, a folder, a glob, a URL), whose `.json` members are
            read and nothing else.
        model: what they are.

    Raises:
        MissingFileError: no such file.
        ShardError: a tar that cannot be read, or no tar there.
        SchemaError: what stands there is no such object; names the file, the line, row or member, and the key.
    """
    name = str(path).lower()
    if name.endswith(PARQUET_SUFFIXES):
        for number, row in enumerate(parquet_rows(path, SchemaError, required=["id"], rows=256), 1):
            where = f"{path}: row {number}"
            yield model.from_json(_as_json(row, where), where)
    elif is_rows(path):
        yield from read_jsonl(path, model)
    else:
        for shard in list_shards(path):
            yield from _of_tar(shard.url, model)


def holds_images(path: str | Path) -> bool:
    """Whether tars have members that are images; errors as `read_items`."""
    return any(
        member.name.lower().endswith(tuple(f".{extension}" for extension in TAR_IMAGE_EXTENSIONS))
        for shard in list_shards(path)
        for member in scan_tar(open_shard(shard.url), shard.url)
    )


def read_all(paths: Sequence[str | Path], model: type[_I]) -> list[_I]:
    """Of several places, one after the other; see `read_items`."""
    return [item for path in paths for item in read_items(path, model)]


def _of_tar(url: str, model: type[_I]) -> Iterator[_I]:
    store = open_shard(url)
    for member in scan_tar(store, url):
        if not member.name.lower().endswith(".json"):
            continue
        where = f"{url}:{member.name}"
        if member.size > MAX_LINE_BYTES:
            msg = f"{where}: {member.size:,} bytes; at most {MAX_LINE_BYTES:,} are read as one record"
            raise SchemaError(msg)
        yield model.from_json(store.read(member.offset, member.size), where)


def _as_json(row: dict[str, object], where: str) -> str:
    """A row of a table as the JSON of a record: what a table cannot leave out is null, and not a number is null too."""
    found = {key: _plain(value) for key, value in row.items()}
    for key in _NESTED:
        if isinstance(text := found.get(key), str):
            found[key] = decode_json(text, f"{where}: column {key!r}", SchemaError)
    scores = found.get("emotion_scores")
    if isinstance(scores, dict):
        # A struct has all fields that any row has; a distribution that names none of them is none.
        found["emotion_scores"] = {name: value for name, value in scores.items() if value is not None} or None
    # A model's class says which of its lists may be missing by leaving them out.
    return json.dumps({key: value for key, value in found.items() if value is not None})


def _plain(value: object) -> object:
    """Tables write a missing number as NaN, and whole numbers of a column that misses one as 7.0."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value
