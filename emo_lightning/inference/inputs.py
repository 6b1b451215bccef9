"""What a command is given to look at: image files, folders, globs, addresses, tars, and Parquet files of paths."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.images import IMAGE_SUFFIXES
from emo_lightning.core.names import as_on_disk, expand_glob
from emo_lightning.core.parquet import parquet_rows
from emo_lightning.core.records import Record
from emo_lightning.core.shard_manifests import is_tar, tars_in
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.pictures import as_picture, is_address

OVERLAY_SUFFIX = ".explained.png"
"""How the names of our own pictures end; a folder's are not looked at again."""
_PATHS = ("path", "file_name", "url", "image")
"""Columns of a Parquet file that may name images, in this order."""


@dataclass(frozen=True)
class InputImage:
    """One image to look at.

    Args:
        id: path or address as given, or the record's id.
        stamp: changes where the file does; empty where nobody can tell.
        open: gives the picture, upright and RGB.
        file: where it lies: a path, an address, or a tar.
        member: its key in the tar.
        record: what its tar says of it.
        des: the embedding that its tar has of it; None where it has none.
    """

    id: str
    stamp: str
    open: Callable[[], Image.Image]
    file: str
    member: str | None = None
    record: Callable[[], Record] | None = None
    des: Callable[[], NDArray[np.float32] | None] | None = None


def entries(inputs: Sequence[str]) -> list[InputImage]:
    """Every image, in the order given; those of folders and globs by name.

    Args:
        inputs: paths of images, folders (searched below), globs, addresses, tars, or Parquet files with a column `path`,
            `file_name` or `url`, whose relative paths begin at the file's folder, and perhaps `id`.

    Raises:
        MissingFileError: a file is missing.
        InputError: no image, or one given twice.
    """
    found = [entry for given in inputs for entry in _of(given)]
    if not found:
        msg = f"{', '.join(inputs)[:200]}: no image there; expected JPEG, PNG or WebP files, tars, or a Parquet file of paths"
        raise InputError(msg)
    seen: set[str] = set()
    for entry in found:
        if entry.id in seen:
            msg = f"{entry.id}: given twice; what is written has one row an image"
            raise InputError(msg)
        seen.add(entry.id)
    return found


def are_tars(given: str) -> bool:
    """Whether it is a tar, a folder or a glob of tars."""
    path = as_on_disk(Path(given))
    return is_tar(given) or (path.is_dir() and bool(tars_in(path)))


def _of(given: str) -> Iterator[InputImage]:
    if is_address(given) and not is_tar(given):
        yield _address(given)
        return
    path = as_on_disk(Path(given))
    if are_tars(given):
        yield from _records(TarIndex.open(given, bad_images=True))
    elif path.is_dir():
        yield from (_file(str(one)) for one in sorted(path.rglob("*")) if _is_picture(one))
    elif path.suffix == ".parquet":
        yield from _rows(path)
    elif not path.exists() and glob.has_magic(given):
        yield from (entry for one in _matches(given) for entry in _of(one))
    elif not path.exists():
        # Named on the command line, it is a mistake there; named in a table, it is one bad image of many.
        msg = f"{given}: no such file"
        raise MissingFileError(msg)
    else:
        yield _file(str(path))


def _matches(pattern: str) -> list[str]:
    found = [one for one in expand_glob(pattern) if not one.endswith(OVERLAY_SUFFIX)]
    if not found:
        msg = f"{pattern}: no file matches"
        raise MissingFileError(msg)
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.endswith(OVERLAY_SUFFIX) and path.is_file()


def _file(path: str, name: str | None = None) -> InputImage:
    try:
        status = Path(path).stat()
        stamp = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        # Opening it says what is wrong.
        stamp = ""
    return InputImage(name or path, stamp, lambda: as_picture(path), path)


def _address(url: str, name: str | None = None) -> InputImage:
    return InputImage(name or url, "", lambda: as_picture(url), url)


def _records(index: TarIndex) -> Iterator[InputImage]:
    hashes = index.hashes()
    for shard in index.shards:
        for row in range(shard.start, shard.stop):
            yield InputImage(
                index.id(row),
                hashes[row],
                partial(index.image, row),
                shard.path,
                index.key(row),
                partial(index.record, row),
                partial(index.des, row),
            )


def _rows(table: Path) -> Iterator[InputImage]:
    for number, row in enumerate(parquet_rows(table, columns=[*_PATHS, "id"], rows=4096)):
        value = next((row[name] for name in _PATHS if isinstance(row.get(name), str)), None)
        if not isinstance(value, str):
            msg = f"{table}: row {number} names no image; expected text in a column {', '.join(_PATHS)}"
            raise InputError(msg)
        name = None if row.get("id") is None else str(row["id"])
        yield _address(value, name) if is_address(value) else _file(str(table.parent / value), name or value)
