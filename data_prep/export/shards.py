"""Shards of splits, the manifest and the dataset card: written beside what is there, and moved into place when all is whole."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from data_prep.export.card import dataset_card
from data_prep.export.earlier import ExportError, earlier_tars
from data_prep.export.manifest import UNKNOWN_LICENCE, Contents, Manifest, ShardRow
from data_prep.export.pictures import CONVERSIONS, ImageType, as_type
from data_prep.export.upload import prepared_upload
from data_prep.store.provenance import annotator_replies
from data_prep.store.rehearsal import is_rehearsed
from emo_lightning.core.file_names import CARD_FILE, MANIFEST_FILE
from emo_lightning.core.files import write_text
from emo_lightning.core.records import DIMENSIONS, IMAGE_EXTENSIONS, SCHEMA_VERSION, SOURCE_SHA256, Record
from emo_lightning.core.shard_index import Stamp, index_path, stamp_index, write_index
from emo_lightning.core.shard_manifests import unfinished_manifest
from emo_lightning.core.stores import is_remote, local_path

_LONGEST_KEY = 200
_LONGEST_SPLIT = 50


class _Shards:
    """The shards of one split."""

    def __init__(self, out: Path, name: str, split: str, samples_per_shard: int) -> None:
        self.out = out
        self.stem = f"{name}-{split}"
        self.split = split
        self.limit = samples_per_shard
        self.rows: list[ShardRow] = []
        self.count = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, record: Record, image: bytes, extension: str) -> None:
        with _writing(self._path):
            if self._tar is None:
                self._tar = tarfile.open(self._path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - closed by finish()
            for suffix, data in ((extension, image), ("json", record.to_json())):
                # A fresh TarInfo has mtime, uid and gid 0, mode 0644 and no names: nothing of this machine or moment gets in.
                member = tarfile.TarInfo(f"{record.id}.{suffix}")
                member.size = len(data)
                self._tar.addfile(member, io.BytesIO(data))
        self.count += 1
        if self.count == self.limit:
            self.finish()

    @property
    def _path(self) -> Path:
        return self.out / f"{self.stem}-{len(self.rows):06d}.tar"

    def finish(self) -> None:
        if self._tar is None:
            return
        path = self._path
        with _writing(path):
            self._tar.close()
            self._tar = None
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                # The manifest vouches for it: it must be on the disk before the manifest is.
                os.fsync(file.fileno())
            write_index(path)
        size = path.stat().st_size
        self.rows.append({"file": path.name, "split": self.split, "count": self.count, "sha256": digest, "bytes": size})
        self.count = 0

    def abandon(self) -> None:
        """Close the file of an export that has failed (its folder goes away)."""
        if self._tar is not None and self._tar.fileobj is not None:
            # Closing writes what is left, and on a full disk fails once more; closed it is.
            with suppress(OSError):
                self._tar.fileobj.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Have an error of a full or failing disk name the file: writing to an open one names none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_shards(
    records_with_images: Iterable[tuple[Record, bytes, str]],
    out: str | Path,
    name: str,
    samples_per_shard: int = 1000,
    *,
    images: ImageType = "keep",
    created_from: Mapping[str, object] | None = None,
    excluded: Mapping[str, int] | None = None,
) -> Manifest:
    """Write `NAME-SPLIT-{000000..}.tar` per split of the records, each with its index, the card `README.md`, and `manifest.json` last.

    Everything is written to a hidden folder in `out` first and renamed when it is whole: an export that breaks off (full disk,
    kill) leaves an earlier one as it was, or, once it has begun to take its place, a manifest that every reader refuses until the same
    export has run again. Nothing is removed but what the manifest of an earlier export lists.

    Args:
        records_with_images: (record, image bytes, extension); the tars keep this order. Split and key come from the record.
        out: directory, or a URL that fsspec writes to, for which the export is made in the system's temporary folder first; an export of
            the same name that is there already is replaced.
        name: first part of the shard names.
        samples_per_shard: at most this many images in one tar.
        images: the type that all get; another type is written anew (`pictures.as_type`), and its record then names the sha256 of what is
            stored, and as `provenance.source_sha256` that of what it was made of. `keep`: as they are; `datasets` opens a mixture by
            the card alone.
        created_from: what the data was made of, for the manifest.
        excluded: counts of what was left out, for the manifest; read when the records have ended, so it may grow meanwhile.

    Returns:
        The manifest.

    Raises:
        ExportError: a key twice, an image that is not the one of its record, an unknown extension, no record at all, another export that is
            being written into `out`, or a `README.md`, manifest or tar there that would be replaced and is of no export of this name.
        StoreError: a place behind a URL does not answer, or takes no files; said before anything is made.
    """
    if samples_per_shard < 1:
        msg = f"samples_per_shard is {samples_per_shard}, expected at least 1"
        raise ExportError(msg)
    if not re.fullmatch(r"\w[\w. +-]{0,99}", name) or ".." in name:
        msg = f"name {name[:100]!r} cannot begin the names of files; allowed: 1–100 letters, digits, blanks and _ - . +"
        raise ExportError(msg)
    if is_remote(out):
        upload = prepared_upload(str(out), name)
        with tempfile.TemporaryDirectory(prefix="emo-export-") as local:
            made = write_shards(
                records_with_images, local, name, samples_per_shard, images=images, created_from=created_from, excluded=excluded
            )
            upload(Path(local), [row["file"] for row in made["shards"]])
        return made
    out = local_path(out)
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out):
        card, there = out / CARD_FILE, out / MANIFEST_FILE
        earlier = earlier_tars(
            name,
            there.read_bytes() if there.exists() else None,
            card.read_bytes() if card.exists() else None,
            (file.name for file in out.iterdir()),
            out.joinpath,
        )
        return _write_export(
            records_with_images, out, name, samples_per_shard, earlier, images, created_from or {}, excluded or {}
        )


def _write_export(
    records_with_images: Iterable[tuple[Record, bytes, str]],
    out: Path,
    name: str,
    samples_per_shard: int,
    earlier: frozenset[str],
    images: ImageType,
    created_from: Mapping[str, object],
    excluded: Mapping[str, int],
) -> Manifest:
    staging = out / f".{name}.partial"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    splits: dict[str, _Shards] = {}
    try:
        changed: Counter[str] = Counter()
        one_type = _of_one_type(records_with_images, images, changed)
        labels, contents = _write_records(one_type, staging, name, samples_per_shard, splits)
        if not splits:
            left_out = ", ".join(f"{reason} {n}" for reason, n in sorted(excluded.items()))
            raise ExportError(f"{out}: there is no record to export" + (f"; left out: {left_out}" if left_out else ""))
        rows = [row for split in sorted(splits) for row in splits[split].rows]
        manifest: Manifest = {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            "shards": rows,
            "counts": {split: sum(r["count"] for r in splits[split].rows) for split in sorted(splits)},
            "label_counts": {split: dict(sorted(n.items())) for split, n in sorted(labels.items())},
            "contents": _contents(contents),
            "images": {
                "type": images,
                "reencoded": dict(sorted(changed.items())),
                "how": CONVERSIONS[images] if changed else None,
            },
            "excluded": dict(sorted(excluded.items())),
            "created_from": created_from,
        }
        _write(staging / CARD_FILE, dataset_card(manifest))
        _write(staging / MANIFEST_FILE, json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        _move(staging, out, name, [row["file"] for row in rows], earlier)
    finally:
        for shards in splits.values():
            shards.abandon()
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _of_one_type(
    records: Iterable[tuple[Record, bytes, str]], images: ImageType, changed: Counter[str]
) -> Iterator[tuple[Record, bytes, str]]:
    """The records with images of one type; `changed` counts by type what was written anew."""
    for record, image, extension in records:
        if images in ("keep", extension) or extension not in IMAGE_EXTENSIONS:
            yield record, image, extension
            continue
        _check_image(record, image)
        data = as_type(image, extension, images, record.id, (record.width, record.height), ExportError)
        changed[extension] += 1
        provenance = {**record.provenance, SOURCE_SHA256: record.provenance.get(SOURCE_SHA256) or record.sha256}
        update = {"sha256": hashlib.sha256(data).hexdigest(), "provenance": provenance}
        yield record.model_copy(update=update), data, images


def _contents(total: dict[str, Counter[str]]) -> Contents:
    source, licence, extension, model, people = (
        dict(sorted(total[key].items())) for key in ("source", "licence", "extension", "model", "people")
    )
    found: Contents = {"source": source, "licence": licence, "extension": extension, "model": model}
    return {**found, "people": people} if people else found


def _write_records(
    records: Iterable[tuple[Record, bytes, str]], staging: Path, name: str, limit: int, splits: dict[str, _Shards]
) -> tuple[dict[str, Counter[str]], dict[str, Counter[str]]]:
    """Write all records; returns images by split and emotion, and by each key of `Contents`."""
    labels: dict[str, Counter[str]] = {}
    total: dict[str, Counter[str]] = {key: Counter() for key in ("source", "licence", "extension", "model", "people")}
    keys: set[str] = set()
    for record, image, extension in records:
        _check(record, image, extension, keys)
        if record.split not in splits:
            splits[record.split] = _Shards(staging, name, record.split, limit)
            labels[record.split] = Counter()
        splits[record.split].add(record, image, extension)
        if record.emotion is not None:
            labels[record.split][str(record.emotion)] += 1
        total["source"][record.source] += 1
        total["licence"][str(record.provenance.get("licence") or UNKNOWN_LICENCE)] += 1
        total["extension"][extension] += 1
        total["people"].update(name for name in (*DIMENSIONS, "votes") if getattr(record, name) is not None)
        total["model"].update({row["model"] for row in annotator_replies(record) if row.get("model")})
    for shards in splits.values():
        shards.finish()
    return labels, total


def _check(record: Record, image: bytes, extension: str, keys: set[str]) -> None:
    if is_rehearsed(record):
        msg = f"{record.id}: is of a rehearsal, whose answers are made up; it is not exported"
        raise ExportError(msg)
    if record.id in keys:
        msg = f"key {record.id!r} appears twice; a tar holds a key once"
        raise ExportError(msg)
    keys.add(record.id)
    if not re.fullmatch(rf"[\w@=+-][\w@=,+ -]{{0,{_LONGEST_KEY - 1}}}", record.id):
        msg = f"key {record.id[:100]!r} cannot name members of a tar; allowed: letters, digits, _ and -, at most {_LONGEST_KEY}"
        raise ExportError(msg)
    if extension not in IMAGE_EXTENSIONS:
        msg = f"{record.id}: extension {extension!r}; allowed: {', '.join(IMAGE_EXTENSIONS)}"
        raise ExportError(msg)
    if not record.split.isidentifier() or len(record.split) > _LONGEST_SPLIT:
        msg = f"{record.id}: split {record.split!r} cannot be part of a file name; allowed: letters, digits and _"
        raise ExportError(msg)
    _check_image(record, image)


def _check_image(record: Record, image: bytes) -> None:
    if hashlib.sha256(image).hexdigest() != record.sha256:
        msg = f"{record.id}: the image does not have the sha256 of its record"
        raise ExportError(msg)


def _write(path: Path, text: str) -> None:
    with _writing(path):
        write_text(path, text, fsync=True)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """While one export is written into a folder, another one is refused; it is the folder itself that is locked, so nothing is left there.

    Raises:
        ExportError: another one is being written.
    """
    folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"{out}: another export is being written into this folder; wait for it, or choose another folder"
            raise ExportError(msg) from None
        except OSError:
            # Some network disks lock no folders: there nobody can tell.
            pass
        yield
    finally:
        os.close(folder)


def _move(staging: Path, out: Path, name: str, files: list[str], earlier: frozenset[str]) -> None:
    """Put a whole export in the place of an earlier one; by the manifest of the moment nobody takes the mixture for either."""
    marker = staging / "unfinished.json"
    _write(marker, json.dumps(unfinished_manifest(name, earlier.union(files))))
    marker.replace(out / MANIFEST_FILE)
    (out / CARD_FILE).unlink(missing_ok=True)
    for tar in earlier.union(files):
        index_path(out / tar).unlink(missing_ok=True)
    for tar in earlier.difference(files):
        (out / tar).unlink(missing_ok=True)
    for tar in files:
        (staging / tar).replace(out / tar)
        index_path(staging / tar).replace(index_path(out / tar))
        # The move was a change of the tar.
        stamp_index(index_path(out / tar), Stamp.of(out / tar))
    for new in (CARD_FILE, MANIFEST_FILE):
        (staging / new).replace(out / new)
