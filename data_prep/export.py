"""Records and images → WebDataset tars that any reader opens, byte-identical for the same input."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_prep.config import SplitConfig
from data_prep.errors import PrepError
from data_prep.ledger import Item
from data_prep.store import Store
from emo_lightning.schema import IMAGE_EXTENSIONS, SCHEMA_VERSION, Record

MANIFEST = "manifest.json"


class ExportError(PrepError, ValueError):
    """The tars cannot be written as asked."""


class _Shards:
    """The shards of one split: written under a temporary name, renamed when complete."""

    def __init__(self, out: Path, name: str, split: str, samples_per_shard: int) -> None:
        self.out = out
        self.stem = f"{name}-{split}"
        self.split = split
        self.limit = samples_per_shard
        self.rows: list[dict[str, Any]] = []
        self.count = 0
        self._tar: tarfile.TarFile | None = None

    def add(self, record: Record, image: bytes, extension: str) -> None:
        if self._tar is None:
            self._tar = tarfile.open(  # noqa: SIM115 - closed by finish()
                self._path.with_name(self._path.name + ".tmp"), "w", format=tarfile.PAX_FORMAT
            )
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
        self._tar.close()
        self._tar = None
        path = self._path
        temporary = path.with_name(path.name + ".tmp")
        with open(temporary, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        row = {"file": path.name, "split": self.split, "count": self.count, "sha256": digest, "bytes": temporary.stat().st_size}
        temporary.replace(path)
        self.rows.append(row)
        self.count = 0


def write_shards(
    records_with_images: Iterable[tuple[Record, bytes, str]],
    out: str | Path,
    name: str,
    samples_per_shard: int = 1000,
    *,
    created_from: dict[str, Any] | None = None,
    excluded: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Write `NAME-SPLIT-{000000..}.tar` per split of the records, and `manifest.json` last.

    Args:
        records_with_images: (record, image bytes, extension); the tars keep this order. Split and key come from the record.
        out: directory; an export of the same name that is there already is replaced.
        name: first part of the shard names.
        samples_per_shard: at most this many images in one tar.
        created_from: what the data was made of, for the manifest.
        excluded: counts of what was left out, for the manifest.

    Returns:
        The manifest.

    Raises:
        ExportError: a key twice, an image that is not the one of its record, an unknown extension, or no record at all.
    """
    if samples_per_shard < 1:
        raise ExportError(f"samples_per_shard is {samples_per_shard}, expected at least 1")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # Without a manifest nobody takes a half-written export for a whole one.
    (out / MANIFEST).unlink(missing_ok=True)
    splits: dict[str, _Shards] = {}
    labels: dict[str, Counter[str]] = {}
    keys: set[str] = set()
    for record, image, extension in records_with_images:
        _check(record, image, extension, keys)
        if record.split not in splits:
            splits[record.split] = _Shards(out, name, record.split, samples_per_shard)
            labels[record.split] = Counter()
        splits[record.split].add(record, image, extension)
        if record.emotion is not None:
            labels[record.split][str(record.emotion)] += 1
    if not splits:
        raise ExportError(f"{out}: there is no record to export")
    for shards in splits.values():
        shards.finish()
    rows = [row for split in sorted(splits) for row in splits[split].rows]
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "shards": rows,
        "counts": {split: sum(r["count"] for r in splits[split].rows) for split in sorted(splits)},
        "label_counts": {split: dict(sorted(labels[split].items())) for split in sorted(splits)},
        "excluded": excluded or {},
        "created_from": created_from or {},
    }
    _remove_stale(out, name, {row["file"] for row in rows})
    temporary = out / f"{MANIFEST}.tmp"
    temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(out / MANIFEST)
    return manifest


def _check(record: Record, image: bytes, extension: str, keys: set[str]) -> None:
    if record.id in keys:
        raise ExportError(f"key {record.id!r} appears twice; a tar holds a key once")
    keys.add(record.id)
    if extension not in IMAGE_EXTENSIONS:
        raise ExportError(f"{record.id}: extension {extension!r}; allowed: {', '.join(IMAGE_EXTENSIONS)}")
    if not record.split.isidentifier():
        raise ExportError(f"{record.id}: split {record.split!r} cannot be part of a file name; allowed: letters, digits and _")
    if hashlib.sha256(image).hexdigest() != record.sha256:
        raise ExportError(f"{record.id}: the image does not have the sha256 of its record")


def _remove_stale(out: Path, name: str, current: set[str]) -> None:
    """Shards of an earlier, larger export of the same name."""
    for path in out.glob(f"{name}-*-[0-9][0-9][0-9][0-9][0-9][0-9].tar*"):
        if path.name not in current and path.name.endswith((".tar", ".tar.tmp")):
            path.unlink()


def export_store(
    store: Store, out: str | Path, name: str, *, samples_per_shard: int = 1000, shares: SplitConfig | None = None
) -> dict[str, Any]:
    """Export the valid records of a store; discarded and human ones are counted in the manifest.

    Args:
        store: opened for reading or writing.
        out: directory of the tars.
        name: of the data set.
        samples_per_shard: at most this many images in one tar.
        shares: of the splits, for images whose source names none.

    Returns:
        The manifest.

    Raises:
        ExportError: nothing to export; see `write_shards`.
    """
    shares = shares or SplitConfig()
    digest = hashlib.sha256()
    for _, outcome in store.ledger.outcomes():
        digest.update(f"{outcome.item_id}\0{outcome.state}\0{outcome.record}\n".encode())

    def records() -> Iterator[tuple[Record, bytes, str]]:
        for item, outcome in store.ledger.outcomes():
            if outcome.state == "valid":
                record = Record.from_json(outcome.record, f"outcome of {item.id}")
                split = item.split or assigned_split(item, shares)
                yield record.model_copy(update={"split": split}), store.image(item.sha256, item.extension), item.extension

    excluded = {state: n for state, n in store.ledger.outcome_counts().items() if state != "valid" and n}
    return write_shards(
        records(),
        out,
        name,
        samples_per_shard,
        created_from={"outcomes_sha256": digest.hexdigest(), "splits": shares.model_dump()},
        excluded=excluded,
    )


def assigned_split(item: Item, shares: SplitConfig) -> str:
    """train, val or test by a hash of the group (else of the image): groups and equal images stay together."""
    point = int.from_bytes(hashlib.sha256((item.group or item.sha256).encode()).digest()[:8], "big") / 2**64
    if point < shares.train:
        return "train"
    return "val" if point < shares.train + shares.val else "test"
