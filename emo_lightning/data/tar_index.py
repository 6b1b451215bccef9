"""WebDataset tars as a random-access table: an index of byte offsets, and reading that refuses what it cannot trust.

What a sample is stands in `core.tar_rows`, what an index keeps of it in `core.shard_index`.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_lightning.core.arrays import parse_npy
from emo_lightning.core.foreign import MAX_LINE_BYTES
from emo_lightning.core.images import MAX_IMAGE_BYTES, image_size, rgb_image
from emo_lightning.core.records import DES_EXTENSION, Record, SchemaError
from emo_lightning.core.remote import RemoteStore
from emo_lightning.core.shard_index import LABEL_BITS, SAMPLE_PARTS
from emo_lightning.core.stores import ByteStore, is_remote
from emo_lightning.core.tar_labels import MAX_LABEL_BYTES, LabelledImage, TarLabels
from emo_lightning.core.tar_rows import TAR_IMAGE_EXTENSIONS
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.data.far_rows import FarRows
from emo_lightning.data.joined import Joined, join_shards, open_shard
from emo_lightning.data.shard_indices import crc_fault
from emo_lightning.data.stand_ins import STAND_IN_SIZE, beyond_limit
from emo_lightning.data.tar_content import shard_hash

__all__ = ["ShardError", "ShardRange", "TarIndex"]

_MAX_OPEN = 256
"""Shards kept open at once, well below the usual limit of 1,024 descriptors."""


class ShardRange(NamedTuple):
    """A shard and the rows of the index that stand in it: `range(start, stop)`."""

    path: str
    start: int
    stop: int


_PLACES = sorted(["format", *(f"{part}_{what}" for part in SAMPLE_PARTS for what in "ol")])
"""Fields of `fingerprint`, in the order of caches that exist."""


class TarIndex:
    """Samples of one or more tars by row number; picklable, and safe to use in forked and spawned workers."""

    def __init__(self, table: Joined, ignored: int, check_sha256: bool) -> None:
        """Use `TarIndex.open`."""
        self._table = table
        self._shards, self._keys, self._texts, self._rows = table
        self.ignored = ignored
        """Members that are neither JSON, image nor DES (of whole shards, also after `select`)."""
        self.check_sha256 = check_sha256
        self._stores: dict[int, ByteStore] = {}

    @classmethod
    def open(
        cls,
        paths: str | Path | Sequence[str | Path],
        *,
        verify: bool = False,
        check_sha256: bool = True,
        bad_images: bool = False,
        stand_ins: bool = False,
        labels: TarLabels | None = None,
    ) -> Self:
        """Read the index of each shard; one that has none, or was changed since, is read whole, and its index kept (`shard_indices`).

        Args:
            paths: tar files, folders (those of `manifest.json`, else all `*.tar`), globs, `name-{000000..000003}.tar`, or
                URLs that fsspec reads.
            verify: also compare every shard's sha256 and count with the `manifest.json` beside it (reads every byte).
            check_sha256: compare an image's bytes with its record whenever they are read.
            bad_images: open a tar all the same whose images, and nothing else, are other bytes than its index says; each fails when it is read.
            stand_ins: give pictures without a size, and those that no backbone takes, the size of what stands in their place
                (`data.stand_ins`); each fails when it is read.
            labels: what stands in place of our record, in tars that have none.

        Raises:
            ShardError: a shard is missing, not a whole tar, holds an incomplete or repeated sample, or other bytes than its index says.
        """
        table, ignored = join_shards(paths, verify=verify, bad_images=bad_images, stand_ins=stand_ins, labels=labels)
        return cls(table, ignored, check_sha256)

    def __len__(self) -> int:
        return len(self._keys)

    def __getstate__(self) -> dict[str, object]:
        # Threads and their locks stay where they are.
        return {name: value for name, value in self.__dict__.items() if name != "_far_rows"} | {"_stores": {}}

    def key(self, row: int) -> str:
        """`__key__` of webdataset: includes the folder inside the tar, if any."""
        return self._keys[row]

    def where(self, row: int, extension: str) -> str:
        """`shard:member`, for messages."""
        return f"{self._shards[self._rows[row]['shard']].url}:{self._keys[row]}.{extension}"

    def record_bytes(self, row: int) -> bytes:
        """The JSON member as it stands in the tar."""
        return self._read(row, "json", "json")

    def id(self, row: int) -> str:
        """The id that the record must have, by the name of its members; nothing is read."""
        return self._table.id(row)

    def name(self, row: int) -> str:
        """By what the image of a row is counted where it cannot be read: the `id`, or, of one that is `nameless`, where it is."""
        return self.where_image(row) if self._table.is_nameless(row) else self.id(row)

    def record(self, row: int) -> Record:
        """Parse and validate the JSON member; its size is that of what stands in the place of the picture, where something does.

        Raises:
            ShardError: no valid record, or one whose id is not the key; names shard and member.
        """
        if (labels := self._shards[self._rows[row]["shard"]].labels) is not None:
            return self._labelled(row, labels)
        where = self.where(row, "json")
        try:
            record = Record.from_json(self.record_bytes(row), where)
        except SchemaError as error:
            raise ShardError(str(error)) from error
        if record.id != self.id(row):
            msg = f"{where}: key 'id': found {record.id!r}; expected the member's key {self._keys[row]!r}"
            raise ShardError(msg)
        if self._rows[row]["stand_in"]:
            # Boxes stay those of the picture: they are cut at its edges where they are encoded, and count nowhere.
            return record.model_copy(update=dict(zip(("width", "height"), STAND_IN_SIZE, strict=True)))
        return record

    def _labelled(self, row: int, labels: TarLabels) -> Record:
        """The record of a sample that has a label in its place."""
        where, entry = self.where(row, labels.member), self._rows[row]
        if entry["json_l"] > MAX_LABEL_BYTES:
            msg = f"{where}: {entry['json_l']} bytes; a label has {MAX_LABEL_BYTES} at most"
            raise ShardError(msg)
        label = self._read(row, "json", labels.member)
        size = STAND_IN_SIZE if entry["stand_in"] else (int(entry["width"]), int(entry["height"]))
        if not entry["valid"]:
            # What is wrong may be the label or the image: each says it by itself.
            labels.emotion(label, where)
            data, extension = self._image_bytes(row, None)
            size = image_size(data, self.where(row, extension), ShardError, upright=True)
        image = LabelledImage(*size, entry["sha256"].decode())
        return labels.record(self.key(row).rpartition("/")[2], label, image, where)

    def image_bytes(self, row: int) -> tuple[bytes, str]:
        """The image member as it stands in the tar, and its extension (`jpg`, `jpeg`, `png` or `webp`).

        Raises:
            ShardError: the bytes are not those of the record's sha256 (unless `check_sha256=False`).
        """
        return self._image_bytes(row, self.record(row) if self.check_sha256 else None)

    def where_image(self, row: int) -> str:
        """`shard:member` of the image."""
        return self.where(row, TAR_IMAGE_EXTENSIONS[self._rows[row]["format"]])

    def image_extension(self, row: int) -> str:
        """Of the image member, `jpg`, `png` or `webp` (`jpeg` is `jpg`); nothing is read."""
        extension = TAR_IMAGE_EXTENSIONS[self._rows[row]["format"]]
        return "jpg" if extension == "jpeg" else extension

    def image(self, row: int) -> Image.Image:
        """Decode to RGB, upright as its EXIF says, size `(record.width, record.height)`.

        Raises:
            ShardError: other bytes than the record's, not decodable, or of another size than the record says.
        """
        return self.sample(row)[1]

    def sample(self, row: int) -> tuple[Record, Image.Image]:
        """The record and its image (see `record` and `image`); the JSON is read and checked once.

        Raises:
            ShardError: as `record` and `image`.
        """
        record = self.record(row)
        return record, self.picture(row, record)

    def picture(self, row: int, record: Record) -> Image.Image:
        """The image of a record that has been read; see `image`.

        Raises:
            ShardError: as `image`.
        """
        data, extension = self._image_bytes(row, record)
        where = self.where(row, extension)
        if self._rows[row]["stand_in"]:
            raise self._no_picture(row, data, where)
        size = (record.width, record.height)
        # As a picture file of the same bytes: a model sees the same picture, wherever it came from.
        return rgb_image(data, where, ShardError, size=size)

    def _no_picture(self, row: int, data: bytes, where: str) -> ShardError:
        """Why something stands in the place of a picture; raised by itself where the bytes are none."""
        width, height = (int(self._rows[row][name]) for name in ("width", "height"))
        if width == 0:
            image_size(data, where, ShardError)
            index_file = self._shards[self._rows[row]["shard"]].index_file
            return ShardError(f"{where}: {index_file} knows no size of it; remove that index")
        rgb_image(data, where, ShardError, size=(width, height))
        return ShardError(f"{where}: {beyond_limit(width, height)}")

    def des(self, row: int) -> NDArray[np.float32] | None:
        """Emotion embedding, float32, shape (des_dim,): the `.des.npy` member, else the record's `des`, else None.

        Raises:
            ShardError: the member is no one-dimensional array of finite floats.
        """
        if not self._rows[row]["des_l"]:
            values = self.record(row).des
            return None if values is None else np.asarray(values, dtype=np.float32)
        where = self.where(row, DES_EXTENSION)
        array = parse_npy(self._read(row, "des", DES_EXTENSION), where, ShardError)
        if array.ndim != 1 or array.dtype.kind != "f" or not np.isfinite(array).all():
            msg = f"{where}: {array.dtype} array of shape {array.shape}; expected finite floats of shape (des_dim,)"
            raise ShardError(msg)
        des: NDArray[np.float32] = array.astype(np.float32)
        return des

    def has(self, label: str) -> NDArray[np.bool_]:
        """Which records have a label (a name of `LABEL_BITS`), shape (N,); no record is read.

        Raises:
            ShardError: a record is not valid; see `record`.
        """
        self._check_records()
        found: NDArray[np.bool_] = (self._rows["labels"] >> LABEL_BITS.index(label)) & 1 == 1
        return found

    def sizes(self) -> NDArray[np.int64]:
        """(width, height) of each picture as its record says (see `record`), shape (N, 2); no record is read.

        Raises:
            ShardError: a record is not valid; see `record`.
        """
        self._check_records()
        said = np.stack([self._rows["width"], self._rows["height"]], axis=1).astype(np.int64)
        return np.where(self.stand_ins[:, None], np.array(STAND_IN_SIZE), said)

    @property
    def stand_ins(self) -> NDArray[np.bool_]:
        """In the place of which pictures something stands (`data.stand_ins`), shape (N,)."""
        found: NDArray[np.bool_] = self._rows["stand_in"]
        return found

    @property
    def nameless(self) -> NDArray[np.bool_]:
        """See `Joined.nameless`; nothing can be kept by their ids, and nothing is."""
        return self._table.nameless

    def splits(self) -> list[str]:
        """Of each record, as `sizes`."""
        self._check_records()
        return [self._texts[number] for number in self._rows["split"].tolist()]

    def groups(self) -> list[str | None]:
        """Of near-duplicates (`provenance.group`), as `sizes`; None where a record has none."""
        self._check_records()
        return [self._texts[number] if number >= 0 else None for number in self._rows["group"].tolist()]

    def hashes(self) -> list[str]:
        """SHA-256 of each picture's bytes as its record says, as `sizes`."""
        self._check_records()
        return [value.decode() for value in self._rows["sha256"].tolist()]

    def source_hashes(self) -> list[str | None]:
        """SHA-256 of the file that each picture was made of (`Record.source_sha256`), as `sizes`; None where a record has none."""
        self._check_records()
        return [value.decode() or None for value in self._rows["source_sha256"].tolist()]

    def _check_records(self) -> None:
        for row in np.flatnonzero(~self._rows["valid"])[:1]:
            self.record(int(row))
            index_file = self._shards[self._rows[row]["shard"]].index_file
            msg = f"{self.where(int(row), self._record_ending(row))}: {index_file} calls this record invalid; remove that index"
            raise ShardError(msg)

    def _record_ending(self, row: int) -> str:
        labels = self._shards[self._rows[row]["shard"]].labels
        return "json" if labels is None else labels.member

    def _declared(self) -> str:
        """Of `data.labels`, as far as rows depend on it; empty where all have records of ours."""
        used = (self._shards[number].labels for number in np.unique(self._rows["shard"]))
        return "".join(labels.identity for labels in used if labels is not None)

    def select(self, predicate: Callable[[Record], bool]) -> Self:
        """The rows whose record fulfils `predicate`, in order; reads every JSON once (`has` asks the index alone)."""
        return self.take([row for row in range(len(self)) if predicate(self.record(row))])

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Self:
        """The given rows, in the given order; the shards themselves are shared, not opened again."""
        return type(self)(self._table.take(np.asarray(rows, dtype=np.int64)), self.ignored, self.check_sha256)

    @property
    def shards(self) -> list[ShardRange]:
        """Shards with the rows that stand in them, in row order: enough to write the same tars with a member added."""
        numbers = self._rows["shard"]
        if not len(numbers):
            return []
        starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist()]
        stops = [*starts[1:], len(numbers)]
        return [ShardRange(self._shards[numbers[a]].url, a, b) for a, b in zip(starts, stops, strict=True)]

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the rows, SHA-256 in hex over shards' sizes, in their order, and rows' keys, offsets and lengths; no name of a file."""
        return self._fingerprint(named=False)

    def _fingerprint(self, *, named: bool) -> str:
        digest = hashlib.sha256()
        used = [self._shards[number] for number in np.unique(self._rows["shard"])]
        sizes = [(Path(shard.url).name, shard.size) if named else shard.size for shard in used]
        digest.update(json.dumps(sizes).encode())
        # Number the shards that are used: a selection is the same whatever other shards were opened beside it.
        order = np.unique(self._rows["shard"], return_inverse=True)[1].astype("<i4")
        digest.update(order.tobytes())
        digest.update(json.dumps(self._keys).encode())
        for field in _PLACES:
            digest.update(self._rows[field].astype("<i8").tobytes())
        digest.update(self._declared().encode())
        return digest.hexdigest()

    @property
    def content(self) -> str:
        """Identity of what the rows hold: `fingerprint`, and the CRC-32 of every member of their shards."""
        return self._content(self.fingerprint)

    @property
    def named_content(self) -> str:
        """As `content`, with the names of the shards: what caches were known by before names were left out."""
        return self._content(self._fingerprint(named=True))

    def _content(self, fingerprint: str) -> str:
        digest = hashlib.sha256(fingerprint.encode())
        for number in np.unique(self._rows["shard"]):
            digest.update(shard_hash(self._shards[number].url).encode())
        digest.update(self._declared().encode())
        return digest.hexdigest()

    @cached_property
    def records_hash(self) -> str:
        """Identity of the records alone, in their order: SHA-256 in hex over length and CRC-32 of each; no paths, no pictures."""
        digest = hashlib.sha256()
        for field in ("json_l", "json_c"):
            digest.update(self._rows[field].astype("<i8").tobytes())
        digest.update(self._declared().encode())
        return digest.hexdigest()

    def _image_bytes(self, row: int, record: Record | None) -> tuple[bytes, str]:
        extension = TAR_IMAGE_EXTENSIONS[self._rows[row]["format"]]
        data = self._read(row, "image", extension)
        if self.check_sha256 and record is not None and (found := hashlib.sha256(data).hexdigest()) != record.sha256:
            msg = f"{self.where(row, extension)}: sha256 of the bytes is {found}, the record says {record.sha256}"
            raise ShardError(msg)
        return data, extension

    def _read(self, row: int, part: str, extension: str) -> bytes:
        entry = self._rows[row]
        offset, length = int(entry[f"{part}_o"]), int(entry[f"{part}_l"])
        if length > (most := MAX_IMAGE_BYTES if part == "image" else MAX_LINE_BYTES):
            msg = f"{self.where(row, extension)}: {length} bytes; at most {most} are read"
            raise ShardError(msg)
        store = self._store(int(entry["shard"]))
        if isinstance(store, RemoteStore):
            self._far_rows.make_ready(entry, part, store)
        data = store.read(offset, length)
        if len(data) != length:
            msg = f"{self.where(row, extension)}: byte {offset}: expected {length} bytes, found {len(data)}"
            raise ShardError(msg)
        crc = zlib.crc32(data)
        if crc != entry[f"{part}_c"] and isinstance(store, RemoteStore):
            # Once more, as what was kept of it may be wrong, whole as it was kept.
            crc = zlib.crc32(data := self._far_rows.anew(entry, part, store))
        if crc != entry[f"{part}_c"]:
            raise ShardError(
                crc_fault(self.where(row, extension), crc, int(entry[f"{part}_c"]), self._shards[entry["shard"]].index_file)
            )
        return data

    @property
    def is_far(self) -> bool:
        """Whether samples lie behind URLs: who says early what it will read (`expect`) waits less."""
        return bool(self._far)

    def expect(self, rows: Sequence[int], *, pictures: bool = True) -> None:
        """Say which rows this process will read next, in order, in place of all that was said before; those behind URLs are fetched ahead.

        Args:
            rows: of the index.
            pictures: whether more of them will be read than their records.
        """
        if self.is_far:
            self._far_rows.expect(rows, pictures=pictures)

    @cached_property
    def _far(self) -> frozenset[int]:
        """Numbers of the shards behind URLs."""
        return frozenset(int(number) for number in np.unique(self._rows["shard"]) if is_remote(self._shards[int(number)].url))

    @cached_property
    def _far_rows(self) -> FarRows:
        return FarRows(self._rows, self._far, self._store)

    def _store(self, number: int) -> ByteStore:
        store = self._stores.get(number)
        if store is None:
            url, size = self._shards[number][:2]
            store = open_shard(url)
            if store.size != size:
                msg = f"{url}: has {store.size} bytes, had {size} when it was indexed"
                raise ShardError(msg)
            if isinstance(store, RemoteStore):
                store.expect(sum(self._shards[one].size for one in self._far))
            elif len(self._stores) >= _MAX_OPEN:
                self._stores.clear()
            self._stores[number] = store
        return store
