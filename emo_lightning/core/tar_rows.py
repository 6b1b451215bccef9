"""One shard's members put together to samples: where the parts of each stand, and the CRC-32 of their bytes.

A sample is `{key}.json` + one image + optionally `{key}.des.npy`, grouped as webdataset does: the key is the member's name up to
the first dot of its last part, and the members of a key stand together.

Members of other endings belong to a sample without being read, and are counted. What would be a sample if its name had no dot
before the ending (`IMG.0001.png`) is refused: webdataset takes `0001.png` for the ending, and every such image would be lost.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from emo_lightning.core.records import DES_EXTENSION, IMAGE_EXTENSIONS
from emo_lightning.core.tar_scan import Member, ShardError

TAR_IMAGE_EXTENSIONS = (*IMAGE_EXTENSIONS, "jpeg")
_META = re.compile(r"__[^/]*__($|/)")
"""Names that webdataset passes over."""


class MemberBytes(NamedTuple):
    """The bytes of one member of a sample."""

    offset: int = 0
    length: int = 0
    crc: int = 0
    """CRC-32 of the bytes."""
    extension: str = ""


class Sample(NamedTuple):
    """Where the parts of one sample stand."""

    image: MemberBytes
    json: MemberBytes
    des: MemberBytes
    """All 0 where there is none."""


def split_member_name(name: str) -> tuple[str, str] | None:
    """`("a/b", "des.npy")` of `a/b.des.npy`; None for names that webdataset passes over (no extension, hidden, meta)."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or _META.match(name):
        return None
    return folder + slash + stem, extension.lower()


def group_samples(
    members: Iterable[tuple[Member, int]], name: str, record: str = "json"
) -> tuple[dict[str, Sample], Counter[str]]:
    """The samples of one shard.

    Args:
        members: of the archive, in order, each with the CRC-32 of its bytes.
        name: of the archive, for messages.
        record: ending of the member that stands for the record, where that is not ours (`core.tar_labels`).

    Returns:
        Samples by key, in order; and how many members were passed over, by ending.

    Raises:
        ShardError: not a whole tar, a sample without an image or record, a key that comes again, or names with a dot before the
            ending.
    """
    samples: dict[str, Sample] = {}
    ignored: Counter[str] = Counter()
    dotted: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)  # (key, rest of the name), part -> member
    key = ""
    parts: dict[str, MemberBytes] = {}
    for member, crc in members:
        split = split_member_name(member.name)
        part = None if split is None else _part(split[1], record)
        if split is None or part is None:
            ignored["no ending" if split is None else split[1]] += 1
            if split is not None and (more := _dotted(split[1], record)) is not None:
                dotted[split[0], more[0]][more[1]] = member.name
            continue
        if split[0] != key and parts:
            samples[key] = _sample(name, key, parts, record)
            parts = {}
        key = split[0]
        if key in samples:
            msg = f"{name}: byte {member.header}: key {key!r} comes again after other keys"
            raise ShardError(msg)
        if part in parts:
            msg = (
                f"{name}: byte {member.header}: key {key!r} has two members for {part}: {parts[part].extension!r}, {split[1]!r}"
            )
            raise ShardError(msg)
        parts[part] = MemberBytes(member.offset, member.size, crc, split[1])
    if parts:
        samples[key] = _sample(name, key, parts, record)
    _check_dots(name, samples, dotted)
    if not samples:
        msg = f"{name}: the tar holds no samples ({ignored.total()} other members)"
        raise ShardError(msg)
    return samples, ignored


def _part(extension: str, record: str) -> str | None:
    if extension in TAR_IMAGE_EXTENSIONS:
        return "image"
    return {record: "json", DES_EXTENSION: "des"}.get(extension)


def _dotted(extension: str, record: str) -> tuple[str, str] | None:
    """`("0001", "image")` of `0001.png`; None where the last ending is none of ours."""
    for ending in (DES_EXTENSION, record, *TAR_IMAGE_EXTENSIONS):
        if extension.endswith(f".{ending}"):
            return extension.removesuffix(f".{ending}"), _part(ending, record) or ""
    return None


def _check_dots(url: str, samples: dict[str, Sample], dotted: dict[tuple[str, str], dict[str, str]]) -> None:
    """Refuse samples whose names have a dot before the ending; `a.mask.png` beside a sample `a` is a part of that one.

    Args:
        url: of the shard.
        samples: by key.
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


def _sample(url: str, key: str, parts: dict[str, MemberBytes], record: str) -> Sample:
    for part, allowed in (("json", record), ("image", ", ".join(TAR_IMAGE_EXTENSIONS))):
        if part not in parts:
            what = part if part == "image" or record == "json" else "label"
            msg = f"{url}: key {key!r} has no {what} member ({allowed}); found {[p.extension for p in parts.values()]}"
            if what == "json":
                msg += "; what the tars of others have in its place is declared by data.labels"
            raise ShardError(msg)
    return Sample(parts["image"], parts["json"], parts.get("des", MemberBytes()))
