"""The index beside a tar: where each sample stands, the CRC-32 of its bytes, and what selections ask of its record.

`NAME.index.npz` beside `NAME.tar` is an ordinary .npz of columns, one value a sample, whose CRC-32 `zipfile` checks. It is made by reading
every byte of the tar once, and then read in its place: nothing is scanned, and no record is parsed, to open or to select. The same tar
gives the same bytes, wherever it lies.

An index is taken as it stands where its time of change is that of the tar's last change of any kind (`st_ctime`, which nobody can set,
and which a copy, a rename over it and a write all move). Elsewhere the tar is read again. Either way every member's CRC-32 is held
against the index whenever the member is read, so that an index of other bytes can serve no sample unnoticed.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.arrays import parse_npz
from emo_lightning.core.emotions import SchemaError
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import replacing
from emo_lightning.core.foreign import MAX_LINE_BYTES, decode_json, integer_of, list_of, object_of, text_of
from emo_lightning.core.images import MAX_IMAGE_BYTES, image_size
from emo_lightning.core.records import SOURCE_SHA256, Record
from emo_lightning.core.stores import ByteStore, LocalStore
from emo_lightning.core.tar_labels import MAX_LABEL_BYTES, LabelledImage, TarLabels
from emo_lightning.core.tar_rows import TAR_IMAGE_EXTENSIONS, Sample, group_samples
from emo_lightning.core.tar_scan import Member, ShardError, scan_tar

INDEX_VERSION = 1
"""Of the file, and of what makes a record valid: one of another version is made anew."""
INDEX_SUFFIX = ".index.npz"
# Not `NAME.tar.index.npz`: Hugging Face's `datasets` would take that for a compressed tar.

LABEL_BITS = (
    *(
        "description",
        "background",
        "attribute",
        "subject",
        "emotion",
        "emotion_scores",
        "confidence",
        "intensity",
        "objects",
        "des",
    ),
    "described",
    "valence",
    "arousal",
    "dominance",
    "votes",
)
"""What a record may have or not, by the bit of `labels`; `described`: its description is not empty."""

SAMPLE_PARTS = ("image", "json", "des")
INDEX_ROW = np.dtype(
    [
        ("format", "i1"),
        ("valid", "?"),
        ("labels", "<u2"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("split", "<i4"),
        ("group", "<i4"),
    ]
    + [("sha256", "S64"), (SOURCE_SHA256, "S64")]
    + [(f"{part}_{what}", kind) for part in SAMPLE_PARTS for what, kind in (("o", "<i8"), ("l", "<i8"), ("c", "<u4"))]
)
"""One sample: the image's extension (number in `TAR_IMAGE_EXTENSIONS`); whether the record is valid, and what it says (`split` and
`group`: numbers in the index's `texts`, -1: none; `sha256` and `source_sha256` in hexadecimal, the latter empty where a record has none);
offset, length and CRC-32 of each part (all 0: none)."""

_AHEAD = 4 << 20
"""Bytes that are read at once."""


class Stamp(NamedTuple):
    """Of a tar as it was when its bytes were read."""

    size: int
    changed: int
    """`st_ctime_ns`."""

    @classmethod
    def of(cls, path: str | Path) -> Stamp:
        """That of a local file as it is now.

        Raises:
            OSError: there is no such file.
        """
        status = Path(path).stat()
        return cls(status.st_size, status.st_ctime_ns)


@dataclass(frozen=True)
class ShardIndex:
    """What stands in an index."""

    size: int
    """Bytes of the tar."""
    content: str
    """SHA-256 over names, lengths and CRC-32 of all its members, in order, also of those that belong to no sample."""
    ignored: dict[str, int]
    """Members that belong to no sample, by ending."""
    keys: list[str]
    """Of the samples, with the folder inside the tar."""
    texts: list[str]
    """Splits and groups, each once."""
    rows: NDArray[np.void]
    """(N,) of `INDEX_ROW`."""

    def same_places(self, other: ShardIndex) -> bool:
        """Whether both have the same keys with parts at the same offsets, of the same lengths."""
        places = ["format", *(f"{part}_{what}" for part in SAMPLE_PARTS for what in "ol")]
        same = self.size == other.size and self.keys == other.keys and self.ignored == other.ignored
        return same and all(np.array_equal(self.rows[name], other.rows[name]) for name in places)


def index_path(tar: str | Path) -> Path:
    """Of the index beside a tar."""
    path = Path(tar)
    return path.with_name(path.name.removesuffix(".tar") + INDEX_SUFFIX)


def write_index(tar: Path) -> None:
    """Make the index beside a tar that has just been written.

    Raises:
        ShardError: no whole tar, or no samples in it.
        OSError: it cannot be written.
    """
    stamp = Stamp.of(tar)
    save_index(build_index(LocalStore(str(tar)), str(tar)), index_path(tar))
    stamp_index(index_path(tar), stamp)


def stamp_index(path: Path, tar: Stamp) -> None:
    """Say that an index is of the tar as it was at `tar`.

    Raises:
        OSError: it is not there, or not ours to change.
    """
    os.utime(path, ns=(tar.changed, tar.changed))


def is_stamped(path: Path, tar: Stamp) -> bool:
    """Whether an index is known to be of the tar as it is; False where either is not there."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        return False
    # File systems keep times to the nanosecond, to 100 of them, or to a micro-, milli- or whole second.
    return any(changed == tar.changed - tar.changed % unit for unit in (1, 100, 1_000, 1_000_000, 1_000_000_000))


def save_index(index: ShardIndex, path: Path) -> None:
    """Write an index; several processes may do so at once.

    Raises:
        OSError: it cannot be written.
    """
    header = {
        "version": INDEX_VERSION,
        "tar_bytes": index.size,
        "content": index.content,
        "ignored": index.ignored,
        "texts": index.texts,
    }
    # No key has a line break: a member whose name has one is refused.
    texts = {"header": json.dumps(header), "keys": "\n".join(index.keys)}
    arrays = {name: np.frombuffer(text.encode(), dtype=np.uint8) for name, text in texts.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays, **{name: index.rows[name] for name in _columns(index.rows)})
    with replacing(path, shared=True) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def _columns(rows: NDArray[np.void]) -> list[str]:
    """Of the file. Where no record names a source, that column is left out, and a file without it names none."""
    return [name for name in INDEX_ROW.names or () if name != SOURCE_SHA256 or rows[name].any()]


def read_index(data: bytes, where: object) -> ShardIndex:
    """The index of an index file's bytes.

    Raises:
        ShardError: damaged, or of another version.
    """
    arrays = parse_npz(data, where, ShardError)
    try:
        header = object_of(decode_json(bytes(arrays["header"]), where, ShardError), where, ShardError)
        keys = bytes(arrays["keys"]).decode().split("\n")
        columns = {name: arrays[name] for name in INDEX_ROW.names or () if name != SOURCE_SHA256 or name in arrays}
    except (KeyError, UnicodeDecodeError) as error:
        msg = f"{where}: no index of a tar: {error}"
        raise ShardError(msg) from None
    if header.get("version") != INDEX_VERSION:
        msg = f"{where}: found version {header.get('version')!r:.40}; this version reads {INDEX_VERSION}"
        raise ShardError(msg)
    rows = np.zeros(len(keys), dtype=INDEX_ROW)
    texts = [text_of(text, where, ShardError) for text in list_of(header.get("texts"), where, ShardError)]
    for name, column in columns.items():
        if column.shape != (len(keys),) or column.dtype != rows[name].dtype:
            msg = f"{where}: {name!r} has shape {column.shape} of {column.dtype}; expected {len(keys)} of {rows[name].dtype}"
            raise ShardError(msg)
        rows[name] = column
    size = integer_of(header.get("tar_bytes"), where, ShardError, low=0)
    ignored = object_of(header.get("ignored"), where, ShardError)
    index = ShardIndex(
        size,
        text_of(header.get("content"), where, ShardError),
        {ending: integer_of(count, where, ShardError, low=1) for ending, count in ignored.items()},
        keys,
        texts,
        rows,
    )
    _check_ranges(index, where)
    return index


def _check_ranges(index: ShardIndex, where: object) -> None:
    """A CRC-32 is no seal: numbers that point nowhere are refused here, before they are used."""
    rows = index.rows
    ends = [rows[f"{part}_o"] + rows[f"{part}_l"] for part in SAMPLE_PARTS]
    numbers = [*ends, *(rows[f"{part}_{what}"] for part in SAMPLE_PARTS for what in "ol")]
    inside = all((column >= 0).all() and (column <= index.size).all() for column in numbers)
    named = all(((rows[name] >= -1) & (rows[name] < len(index.texts))).all() for name in ("split", "group"))
    if not (inside and named and ((rows["format"] >= 0) & (rows["format"] < len(TAR_IMAGE_EXTENSIONS))).all()):
        msg = f"{where}: no index of a tar: it points outside of it"
        raise ShardError(msg)


def build_index(store: ByteStore, name: str, labels: TarLabels | None = None) -> ShardIndex:
    """Read every byte of a tar once.

    Args:
        store: its bytes.
        name: of it, for messages.
        labels: where samples have a label in place of a record.

    Raises:
        ShardError: as `scan_tar` and `group_samples`.
    """
    ahead, digest = _ReadAhead(store), sha256()
    said: dict[int, bytes] = {}  # offset -> record, or label
    images: dict[int, LabelledImage] = {}

    def members() -> Iterator[tuple[Member, int]]:
        for member in scan_tar(ahead, name):
            ending = member.name.lower().rpartition(".")[2]
            is_image = labels is not None and ending in TAR_IMAGE_EXTENSIONS and member.size <= MAX_IMAGE_BYTES
            is_said = ending == ("json" if labels is None else labels.member)
            kept = is_image or (is_said and member.size <= (MAX_LINE_BYTES if labels is None else MAX_LABEL_BYTES))
            crc, body = ahead.crc(member.offset, member.size, keep=kept)
            if is_image:
                images[member.offset] = _labelled_image(body)
            elif kept:
                said[member.offset] = body
            digest.update(_line(member, crc))
            yield member, crc

    samples, ignored = group_samples(members(), name, "json" if labels is None else labels.member)
    rows = np.zeros(len(samples), dtype=INDEX_ROW)
    texts: dict[str, int] = {}
    for row, (key, sample) in zip(rows, samples.items(), strict=True):
        _set_places(row, sample)
        body = said.get(sample.json.offset, b"")
        if labels is None:
            _set_record(row, key, body, texts)
        else:
            set_label(row, key, body, images.get(sample.image.offset, NO_IMAGE), texts, labels)
    return ShardIndex(store.size, digest.hexdigest(), dict(ignored), list(samples), list(texts), rows)


NO_IMAGE = LabelledImage(0, 0, "")
"""Of a row whose image is too large to be read."""


def _labelled_image(data: bytes) -> LabelledImage:
    """Of an image that no record says anything of; a size of 0 where it has none that can be read."""
    try:
        size = image_size(data, upright=True)
    except InputError:
        # Said when the record is asked for.
        size = (0, 0)
    return LabelledImage(*size, sha256(data).hexdigest())


def set_label(row: np.void, key: str, label: bytes, image: LabelledImage, texts: dict[str, int], labels: TarLabels) -> None:
    """Write into a row what the label in the place of a record says; one that says nothing leaves the row invalid.

    Args:
        row: of `INDEX_ROW`.
        key: of the sample, with the folder inside the tar.
        label: the member's bytes.
        image: of the sample.
        texts: text -> number, of the index; it grows.
        labels: what the label means.
    """
    row["split"] = row["group"] = -1
    row["sha256"] = image.sha256
    try:
        record = labels.record(key.rpartition("/")[2], label, image, key)
    except ShardError:
        return
    row["valid"], row["width"], row["height"] = True, image.width, image.height
    row["labels"] = label_bits(record)
    row["split"] = texts.setdefault(record.split, len(texts))


def _line(member: Member, crc: int) -> bytes:
    """Of a member, for `ShardIndex.content`."""
    return f"{member.name}\0{member.size}\0{crc:08x}\n".encode()


def members_hash(store: ByteStore, name: str) -> str:
    """`ShardIndex.content` of any tar, whatever its members are.

    Raises:
        ShardError: no whole tar.
    """
    ahead, digest = _ReadAhead(store), sha256()
    for member in scan_tar(ahead, name):
        digest.update(_line(member, ahead.crc(member.offset, member.size, keep=False)[0]))
    return digest.hexdigest()


def _set_places(row: np.void, sample: Sample) -> None:
    row["format"] = TAR_IMAGE_EXTENSIONS.index(sample.image.extension)
    for name, part in zip(SAMPLE_PARTS, (sample.image, sample.json, sample.des), strict=True):
        row[f"{name}_o"], row[f"{name}_l"], row[f"{name}_c"] = part[:3]


def _set_record(row: np.void, key: str, data: bytes, texts: dict[str, int]) -> None:
    row["split"] = row["group"] = -1
    try:
        record = Record.from_json(data, key)
    except SchemaError:
        # Said when the record is asked for, by name, as ever: somebody may leave it out.
        return
    if record.id != key.rpartition("/")[2]:
        return
    row["valid"], row["width"], row["height"], row["sha256"] = True, record.width, record.height, record.sha256
    row[SOURCE_SHA256] = record.source_sha256 or ""
    row["labels"] = label_bits(record)
    row["split"] = texts.setdefault(record.split, len(texts))
    if isinstance(group := record.provenance.get("group"), str):
        row["group"] = texts.setdefault(group, len(texts))


def label_bits(record: Record) -> int:
    """Bits of `LABEL_BITS`."""
    has = {name: getattr(record, name, None) not in (None, []) for name in LABEL_BITS} | {"described": bool(record.description)}
    return sum(1 << bit for bit, name in enumerate(LABEL_BITS) if has[name])


class _ReadAhead:
    """A store that is read from its beginning to its end, in long pieces."""

    def __init__(self, store: ByteStore) -> None:
        self._store = store
        self._start, self._held = 0, memoryview(b"")
        self.size = store.size

    def read(self, offset: int, length: int) -> bytes:
        """See `ByteStore.read`."""
        return bytes(self._view(offset, length))

    def crc(self, offset: int, length: int, *, keep: bool) -> tuple[int, bytes]:
        """CRC-32 of a member's bytes, and the bytes, if they are to be kept."""
        crc, body = 0, bytearray()
        for start in range(offset, offset + length, _AHEAD):
            piece = self._view(start, min(_AHEAD, offset + length - start))
            crc = zlib.crc32(piece, crc)
            if keep:
                body += piece
        return crc, bytes(body)

    def _view(self, offset: int, length: int) -> memoryview:
        start = offset - self._start
        if start < 0 or start + length > len(self._held):
            self._start, start = offset, 0
            self._held = memoryview(self._store.read(offset, max(length, _AHEAD)))
        return self._held[start : start + length]
