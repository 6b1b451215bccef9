"""One shard's members put together to samples: rows of byte offsets, which `TarIndex` keeps.

A sample is `{key}.json` + one image + optionally `{key}.des.npy`, grouped as webdataset does: the key is the member's name up to
the first dot of its last part, and the members of a key stand together.
"""

from __future__ import annotations

import re

import numpy as np

from emo_lightning.core.records import DES_EXTENSION, IMAGE_EXTENSIONS
from emo_lightning.data.shard_list import Shard
from emo_lightning.data.stores import ByteStore
from emo_lightning.data.tar_scan import ShardError, scan_tar

IMAGES = (*IMAGE_EXTENSIONS, "jpeg")
_META = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset passes over."""

_PARTS = ("image", "json", "des")
ROW = np.dtype([("shard", "i4"), ("format", "i1")] + [(f"{part}_{n}", "i8") for part in _PARTS for n in "ol"])
"""One sample: its shard, the image's extension (index into `IMAGES`), offset and length of each part (0, 0: none)."""


def split_name(name: str) -> tuple[str, str] | None:
    """`("a/b", "des.npy")` of `a/b.des.npy`; None for names that webdataset passes over (no extension, hidden, meta)."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _META.match(name):
        return None
    return folder + slash + stem, extension.lower()


def group_samples(store: ByteStore, shard: Shard, number: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """The samples of one shard.

    Args:
        store: its bytes.
        shard: its name.
        number: its place in the index, for the rows.

    Returns:
        Rows (as `ROW`) by key, in order; and how many members were passed over.

    Raises:
        ShardError: not a whole tar, a sample without an image or record, or a key that comes again.
    """
    samples: dict[str, tuple[int, ...]] = {}
    ignored = 0
    key = ""
    parts: dict[str, tuple[int, int, str]] = {}  # offset, length, extension
    for member in scan_tar(store, shard.url):
        name = split_name(member.name)
        part = None if name is None else _part(name[1])
        if name is None or part is None:
            ignored += 1
            continue
        if name[0] != key and parts:
            samples[key] = _row(shard.url, number, key, parts)
            parts = {}
        key = name[0]
        if key in samples:
            msg = f"{shard.url}: byte {member.header}: key {key!r} comes again after other keys"
            raise ShardError(msg)
        if part in parts:
            msg = f"{shard.url}: byte {member.header}: key {key!r} has two members for {part}: {parts[part][2]!r}, {name[1]!r}"
            raise ShardError(msg)
        parts[part] = (member.offset, member.size, name[1])
    if parts:
        samples[key] = _row(shard.url, number, key, parts)
    if not samples:
        msg = f"{shard.url}: the tar holds no samples ({ignored} other members)"
        raise ShardError(msg)
    return samples, ignored


def _part(extension: str) -> str | None:
    if extension in IMAGES:
        return "image"
    return {"json": "json", DES_EXTENSION: "des"}.get(extension)


def _row(url: str, number: int, key: str, parts: dict[str, tuple[int, int, str]]) -> tuple[int, ...]:
    for part, allowed in (("json", "json"), ("image", ", ".join(IMAGES))):
        if part not in parts:
            msg = f"{url}: key {key!r} has no {part} member ({allowed}); found {[p[2] for p in parts.values()]}"
            raise ShardError(msg)
    image, record, des = parts["image"], parts["json"], parts.get("des", (0, 0, ""))
    return (number, IMAGES.index(image[2]), *image[:2], *record[:2], *des[:2])
