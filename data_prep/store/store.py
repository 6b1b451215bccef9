"""A store: a directory with content-addressed images and the ledger.

STORE/images/ab/<sha256>.jpg
STORE/ledger.sqlite
STORE/lock
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from data_prep.store.group_commit import LedgerError, damaged, ledger_errors
from data_prep.store.items import PassedOver, Repeat, SourceItem, SourceRefusal, is_labelled
from data_prep.store.ledger import Ledger
from data_prep.store.lock import StoreError, take_lock
from data_prep.store.private import make_private, private_file
from data_prep.store.rows import Item
from emo_lightning.core.files import remove_left_behind, this_writer, write_bytes
from emo_lightning.core.image_metadata import without_metadata

__all__ = ["ImportReport", "Store", "StoreError", "read_stored_image"]

_BATCH = 256
"""Items per transaction of an import."""
_SHOWN = 20
"""Refusals kept word by word in a report; all are counted."""


@dataclass
class ImportReport:
    """What an import did."""

    added: int = 0
    known: int = 0
    """Imported before, with the same bytes."""
    changed: int = 0
    """Imported before with other bytes: left as it was."""
    labelled: int = 0
    """Items of this read to which the source gives an emotion of the eight."""
    unlabelled: int = 0
    """The other items of this read."""
    repeated: int = 0
    """Rows that only say again what an earlier one said."""
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    """Refusals by the first words of their reason."""
    refusals: list[SourceRefusal] = field(default_factory=list)
    """The first of them, in full."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files that are none of the source's images, by why."""
    passed_over_first: list[SourceRefusal] = field(default_factory=list)
    """The first of them, by name."""

    @property
    def read(self) -> int:
        """Everything that the source yielded, without what was passed over."""
        return self.labelled + self.unlabelled + self.repeated + self.refused

    def refuse(self, refusal: SourceRefusal) -> None:
        """Count a refusal, a repeated row, or what was passed over."""
        if isinstance(refusal, PassedOver):
            self.passed_over[refusal.reason] += refusal.count
            if len(self.passed_over_first) < _SHOWN:
                self.passed_over_first.append(refusal)
            return
        if isinstance(refusal, Repeat):
            self.repeated += 1
            return
        self.refused += 1
        self.reasons[re.split("[:;,]", refusal.reason, maxsplit=1)[0]] += 1
        if len(self.refusals) < _SHOWN:
            self.refusals.append(refusal)


class Store:
    """Open a store; a writer holds its lock, so two programs never pay for the same reply.

    Args:
        root: directory; made if it is missing and `write` and `create` are true.
        write: hold the lock and allow writing.
        create: false for what needs the images of a store: a mistyped name is an error then, not a new store.

    Raises:
        StoreError: another program writes to it.
        LedgerError: it does not exist (reading), or is of another version.
    """

    def __init__(self, root: str | Path, *, write: bool, create: bool = True) -> None:
        self.root = Path(root)
        if not create and not (self.root / "ledger.sqlite").exists():
            msg = f"{self.root}: no store there; `emo prep import` makes one"
            raise LedgerError(msg)
        self._lock: IO[bytes] | None = None
        if write:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            (self.root / "images").mkdir(exist_ok=True, mode=0o700)
            make_private(self.root)
            private_file(self.root / "lock")
            self.lock()
            private_file(self.root / "ledger.sqlite")
        try:
            self.ledger = Ledger(self.root / "ledger.sqlite", write=write)
        except BaseException:
            self.unlock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
        if value is not None and damaged(value):
            with ledger_errors(self.ledger.path):
                raise value

    def close(self) -> None:
        """Finish writes and give the lock back."""
        self.ledger.close()
        self.unlock()

    def lock(self) -> None:
        """Take the lock of the store.

        Raises:
            StoreError: another program has it.
        """
        self._lock = take_lock(self.root)

    def unlock(self) -> None:
        """Give the lock back, if it is held."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def image_path(self, sha256: str, extension: str) -> Path:
        """Where an image lies."""
        return _image_path(self.root, sha256, extension)

    def image(self, sha256: str, extension: str, *, keep_metadata: bool = False) -> bytes:
        """An image, by default without what its file says beside its pixels (see `read_stored_image`).

        Raises:
            StoreError: the file is missing or its content is not what its name says.
        """
        return read_stored_image(self.root, sha256, extension, keep_metadata=keep_metadata)

    def add_image(self, data: bytes, extension: str) -> str:
        """Store an image under its sha256 (temporary name, then rename), also where a power cut left less of it; returns the sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.image_path(sha256, extension)
        if not path.exists() or path.stat().st_size != len(data):
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_bytes(path, data, writer=this_writer())
            path.chmod(0o600)
        return sha256

    def import_items(
        self, items: Iterable[SourceItem | SourceRefusal], on_item: Callable[[ImportReport], None] | None = None
    ) -> ImportReport:
        """Take over what a source yields; importing again adds only what is new.

        Args:
            items: from a source.
            on_item: called after each one, for progress.
        """
        remove_left_behind(self.root / "images", "*/*.tmp")
        report = ImportReport()
        known: dict[str, dict[str, str]] = {}
        batch: list[Item] = []
        try:
            for item in items:
                if isinstance(item, SourceRefusal):
                    report.refuse(item)
                else:
                    if item.source not in known:
                        known[item.source] = self.ledger.item_keys(item.source)
                    self._take(item, known[item.source], batch, report)
                if len(batch) >= _BATCH:
                    self.ledger.add_items(batch)
                    batch.clear()
                if on_item:
                    on_item(report)
        finally:
            # An interrupted download must not fetch again what it has.
            self.ledger.add_items(batch)
        return report

    def _take(self, item: SourceItem, seen: dict[str, str], batch: list[Item], report: ImportReport) -> None:
        labelled = is_labelled(item.labels)
        report.labelled += labelled
        report.unlabelled += not labelled
        sha256 = hashlib.sha256(item.image).hexdigest()
        # A folder copied from a Mac spells é in two characters; the same bytes under the other spelling are no new image.
        spellings = (unicodedata.normalize(form, item.key) for form in ("NFC", "NFD"))
        key = next((one for one in spellings if item.key not in seen and seen.get(one) == sha256), item.key)
        if key in seen:
            report.known += seen[key] == sha256
            report.changed += seen[key] != sha256
            if seen[key] == sha256:
                # Mends a store that lost the file.
                self.add_image(item.image, item.extension)
            return
        self.add_image(item.image, item.extension)
        seen[item.key] = sha256
        report.added += 1
        batch.append(Item.of(item, sha256))


def _image_path(root: Path, sha256: str, extension: str) -> Path:
    return root / "images" / sha256[:2] / f"{sha256}.{extension}"


def read_stored_image(root: Path, sha256: str, extension: str, *, keep_metadata: bool = False) -> bytes:
    """As `Store.image`, without opening the ledger of the store.

    Whoever asks may send the image on: place, time and camera stay here unless they are asked for. The name stays the sha256 of
    what the store has, so that what was paid for an image is found, whatever of it was sent.

    Raises:
        StoreError: the file is missing or its content is not what its name says.
    """
    path = _image_path(root, sha256, extension)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        msg = f"{path}: the image is missing from the store"
        raise StoreError(msg) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        msg = f"{path}: the content does not have the sha256 of its name"
        raise StoreError(msg)
    return data if keep_metadata else without_metadata(data)
