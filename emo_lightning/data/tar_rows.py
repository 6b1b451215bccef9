"""One shard's members put together to samples: rows of byte offsets, which `TarIndex` keeps.

A sample is `{key}.json` + one image + optionally `{key}.des.npy`, grouped as webdataset does: the key is the member's name up to
the first dot of its last part, and the members of a key stand together.

Members of other endings belong to a sample without being read, and are counted. What would be a sample if its name had no dot
before the ending (`IMG.0001.png`) is refused: webdataset takes `0001.png` for the ending, and every such image would be lost.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

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


def group_samples(store: ByteStore, shard: Shard, number: int) -> tuple[dict[str, tuple[int, ...]], Counter[str]]:
    """The samples of one shard.

    Args:
        store: its bytes.
        shard: its name.
        number: its place in the index, for the rows.

    Returns:
        Rows (as `ROW`) by key, in order; and how many members were passed over, by ending.

    Raises:
        ShardError: not a whole tar, a sample without an image or record, a key that comes again, or names with a dot before the
            ending.
    """
    samples: dict[str, tuple[int, ...]] = {}
    ignored: Counter[str] = Counter()
    dotted: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # (key, rest of the name), part -> member
    key = ""
    parts: dict[str, tuple[int, int, str]] = {}  # offset, length, extension
    for member in scan_tar(store, shard.url):
        name = split_name(member.name)
        part = None if name is None else _part(name[1])
        if name is None or part is None:
            ignored["no ending" if name is None else name[1]] += 1
            if name is not None and (more := _dotted(name[1])) is not None:
                dotted[name[0], more[0]][more[1]] = member.name
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
    _check_dots(shard.url, samples, dotted)
    if not samples:
        msg = f"{shard.url}: the tar holds no samples ({ignored.total()} other members)"
        raise ShardError(msg)
    return samples, ignored


def _part(extension: str) -> str | None:
    if extension in IMAGES:
        return "image"
    return {"json": "json", DES_EXTENSION: "des"}.get(extension)


def _dotted(extension: str) -> tuple[str, str] | None:
    """`("0001", "image")` of `0001.png`; None where the last ending is none of ours."""
    for ending in (DES_EXTENSION, "json", *IMAGES):
        if extension.endswith(f".{ending}"):
            return extension.removesuffix(f".{ending}"), _part(ending) or ""
    return None


def _check_dots(url: str, samples: dict[str, tuple[int, ...]], dotted: dict[tuple[str, str], dict[str, str]]) -> None:
    """Refuse samples whose names have a dot before the ending; `a.mask.png` beside a sample `a` is a part of that one.

    Args:
        url: of the shard.
        samples: rows by key.
        dotted: (key, what stands between key and ending) -> part -> name of the member.
    """
    lost = [found for (key, _), found in dotted.items() if key not in samples or {"image", "json"} <= found.keys()]
    if lost:
        name = next(iter(lost[0].values()))
        msg = (
            f"{url}: {len(lost)} samples have a dot in their name before the ending, first {name!r}: WebDataset takes everything after "
            "the first dot for the ending; write these members with another sign than the dot, in the record's id too"
        )
        raise ShardError(msg)


def _row(url: str, number: int, key: str, parts: dict[str, tuple[int, int, str]]) -> tuple[int, ...]:
    for part, allowed in (("json", "json"), ("image", ", ".join(IMAGES))):
        if part not in parts:
            msg = f"{url}: key {key!r} has no {part} member ({allowed}); found {[p[2] for p in parts.values()]}"
            raise ShardError(msg)
    image, record, des = parts["image"], parts["json"], parts.get("des", (0, 0, ""))
    return (number, IMAGES.index(image[2]), *image[:2], *record[:2], *des[:2])
