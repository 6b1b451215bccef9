"""Whether two collections hold the same image files, by the SHA-256 of their bytes: tars, folders of images, stores.

An image has several marks: the SHA-256 of its bytes; where a record says so, of the file that they were made of; of a file in a folder
also that of the same file without its metadata, upright, which is what import and export make of it. Two images are the same if they share
one. A picture that somebody has scaled, cropped or compressed anew has none in common, which a caller has to say (`NOT_COMPARED`).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.image_metadata import without_metadata
from emo_lightning.core.images import MAX_IMAGE_BYTES, image_format
from emo_lightning.core.names import expand_glob
from emo_lightning.core.records import SOURCE_SHA256
from emo_lightning.core.shard_index import ShardIndex, Stamp, build_index, index_path, is_stamped, read_index
from emo_lightning.core.shard_manifests import FoundManifests, tars_in
from emo_lightning.core.stores import LocalStore, is_remote
from emo_lightning.core.tar_scan import ShardError, scan_tar

NOT_COMPARED = (
    "Compared by the SHA-256 of files: a copy that was scaled, cropped or compressed anew is not found, nor one that an import had to make "
    "opaque or 8-bit. `emo prep dedup` compares what images of one store show."
)
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def file_marks(data: bytes) -> tuple[str, ...]:
    """The marks of a file that is no record's.

    Raises:
        InputError: what lies beside its pixels cannot be read; then it has one mark, of its bytes.
    """
    return tuple(dict.fromkeys((_sha256(data), _sha256(without_metadata(data)))))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class CollectionImage(NamedTuple):
    """One image of a collection."""

    name: str
    """File, or tar and key."""
    marks: tuple[str, ...]
    """By any of these another image is the same."""


@dataclass
class ImageCollection:
    """The images of a collection."""

    name: str
    """As it was asked for."""
    found: list[CollectionImage] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """What looks like an image, and is none or too large; named with the reason."""

    def add(self, name: str, data: bytes) -> None:
        """Take a file's bytes."""
        if not image_format(data):
            self.unread.append(f"{name}: no JPEG, PNG or WebP")
            return
        try:
            marks = file_marks(data)
        except InputError as error:
            marks = (_sha256(data),)
            self.unread.append(f"{name}: compared by its bytes alone: {error}")
        self.found.append(CollectionImage(name, marks))


class Shared(NamedTuple):
    """An image that both collections hold."""

    image: str
    other: str


def pictures_of(path: str | Path) -> ImageCollection:
    """All images of a tar, a pattern of tars, a folder of tars, a folder of images, or a store of `emo prep`.

    Raises:
        MissingFileError: nothing is there.
        InputError: a URL; or there are no images.
        ShardError: a tar is damaged, or of an export that is not whole.
    """
    if is_remote(path):
        msg = f"{path}: images behind a URL are not compared; copy them here first"
        raise InputError(msg)
    found, manifests = ImageCollection(str(path)), FoundManifests()
    for place in map(Path, expand_glob(str(path))):
        tars = tars_in(place) if place.is_dir() else [place]
        if tars:
            for tar in tars:
                manifests.refuse_unfinished(tar)
                _take_tar(found, tar)
        else:
            # A store has other files beside its images, but no other images.
            _take_folder(found, place)
    if not found.found:
        error = InputError if Path(path).exists() or found.unread else MissingFileError
        msg = f"{path}: no images there; expected tars, a folder of tars, a folder of images, or a store"
        raise error(msg)
    return found


def _take_folder(found: ImageCollection, folder: Path) -> None:
    for here, below, names in os.walk(folder):
        below.sort()
        for name in sorted(names):
            if not name.lower().endswith(_ENDINGS) or name.startswith("."):
                continue
            file = Path(here, name)
            try:
                size = file.stat().st_size
                if size > MAX_IMAGE_BYTES:
                    found.unread.append(f"{file}: {size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
                    continue
                data = file.read_bytes()
            except OSError as error:
                found.unread.append(f"{file}: cannot be read: {error.strerror or error}")
                continue
            found.add(str(file), data)


def _take_tar(found: ImageCollection, tar: Path) -> None:
    if tar.suffix.lower() != ".tar":
        msg = f"{tar}: expected tars, a folder of tars, a folder of images, or a store"
        raise InputError(msg)
    index = _index(tar)
    if index is not None and index.rows["valid"].all():
        for key, row in zip(index.keys, index.rows, strict=True):
            marks = (str(row[name], "ascii") for name in ("sha256", SOURCE_SHA256))
            found.found.append(CollectionImage(f"{tar}: {key}", tuple(mark for mark in marks if mark)))
        return
    # A tar of others, or records that are none of ours: the bytes themselves.
    store = LocalStore(str(tar))
    for member in scan_tar(store, str(tar)):
        if member.name.lower().endswith(_ENDINGS):
            if member.size > MAX_IMAGE_BYTES:
                found.unread.append(f"{tar}: {member.name}: {member.size:,} bytes; at most {MAX_IMAGE_BYTES:,} are read")
            else:
                found.add(f"{tar}: {member.name}", store.read(member.offset, member.size))


def _index(tar: Path) -> ShardIndex | None:
    """That beside a tar, if it is known to be of it, or a new one; None where its samples are none of ours."""
    try:
        if is_stamped(index_path(tar), Stamp.of(tar)):
            return read_index(index_path(tar).read_bytes(), index_path(tar))
    except FileNotFoundError:
        msg = f"{tar}: no such file"
        raise MissingFileError(msg) from None
    except (OSError, ShardError):
        pass
    try:
        return build_index(LocalStore(str(tar)), str(tar))
    except ShardError:
        # Damage is found again where the members are read.
        return None


def shared(one: Iterable[CollectionImage], other: Iterable[CollectionImage]) -> list[Shared]:
    """Images of the first that the second holds too, each with the first image there that is the same."""
    names: dict[str, str] = {}
    for picture in other:
        for mark in picture.marks:
            names.setdefault(mark, picture.name)
    return list(_shared(one, names))


def _shared(one: Iterable[CollectionImage], names: dict[str, str]) -> Iterator[Shared]:
    for picture in one:
        if (found := next((names[mark] for mark in picture.marks if mark in names), None)) is not None:
            yield Shared(picture.name, found)


def overlap_lines(test: ImageCollection, others: Sequence[ImageCollection], most: int) -> list[str]:
    """What a person is told: how many images `test` shares with each of the others, the first `most` of them, what was not read or compared."""
    lines: list[str] = []
    for other in others:
        both = shared(test.found, other.found)
        share = f" ({100 * len(both) / len(test.found):.1f} %)" if both else ""
        lines.append(
            f"{len(both):,} of {len(test.found):,} images of {test.name}{share} are also in {other.name}, which has {len(other.found):,}"
        )
        lines += _first([f"{pair.image} = {pair.other}" for pair in both], most)
    for collection in (test, *others):
        if collection.unread:
            lines += [
                f"not read, or not whole, of {collection.name}: {len(collection.unread):,}",
                *_first(collection.unread, most),
            ]
    return [*lines, NOT_COMPARED] if others else []


def _first(lines: Sequence[str], most: int) -> list[str]:
    more = [f"  and {len(lines) - most:,} more"] if len(lines) > most else []
    return [*(f"  {line}" for line in lines[:most]), *more]
