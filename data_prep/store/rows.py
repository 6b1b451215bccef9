"""Rows of the ledger as values: an image, and what became of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from data_prep.store.group_commit import SqlValue
from data_prep.store.items import SourceItem
from data_prep.store.lock import StoreError
from emo_lightning.core.foreign import decode_json

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Item:
    """One imported image: what its source said of it, with an id, and the sha256 of its bytes in their place."""

    id: str
    source: str
    key: str
    sha256: str
    extension: str
    width: int
    height: int
    split: str | None
    group: str | None
    labels: dict[str, object]
    regions: list[dict[str, object]]
    """`schema.GroundedObject` as JSON."""
    licence: str | None
    origin: str | None

    @classmethod
    def of(cls, item: SourceItem, sha256: str) -> Item:
        """The item that an image of a source becomes.

        Args:
            item: as the source yields it.
            sha256: of its bytes.
        """
        return cls(
            id=item_id(item.source, item.key),
            source=item.source,
            key=item.key,
            sha256=sha256,
            extension=item.extension,
            width=item.width,
            height=item.height,
            split=item.split,
            group=item.group,
            labels=item.labels,
            regions=[region.model_dump(mode="json") for region in item.regions],
            licence=item.licence,
            origin=item.origin,
        )

    def row(self) -> tuple[SqlValue, ...]:
        """Values in the order of the table."""
        return (
            *(self.id, self.source, self.key, self.sha256, self.extension, self.width, self.height, self.split, self.group),
            *(json.dumps(self.labels, sort_keys=True), json.dumps(self.regions), self.licence, self.origin),
        )

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Item:
        """The inverse of `row`."""
        names = [f.name for f in fields(cls)]
        values = dict(zip(names, row, strict=True))
        where = f"image {values['id']!r}"
        labels = stored_json(values["labels"], f"labels of {where}", dict)
        return cls(**{**values, "labels": labels, "regions": stored_json(values["regions"], f"regions of {where}", list)})


def stored_json(text: object, what: str, kind: type[_Kind]) -> _Kind:
    """A JSON value in a ledger, which may come from somebody else.

    Args:
        text: as it is stored.
        what: it is, for the message.
        kind: of value that it must be; `object` takes any.

    Raises:
        StoreError: it is no such value; names what it should have been.
    """
    where = f"ledger: {what}"
    if not isinstance(text, str):
        msg = f"{where}: found {type(text).__name__}; expected JSON text"
        raise StoreError(msg)
    value = decode_json(text, where, StoreError, half_characters="keep", repeated_keys="last")
    if not isinstance(value, kind):
        msg = f"{where}: found {type(value).__name__}; expected {kind.__name__}"
        raise StoreError(msg)
    return value


@dataclass(frozen=True)
class Outcome:
    """What became of an item: `valid`, `discarded` or `human`, with the record as it stands."""

    item_id: str
    state: str
    config: str
    """Digest of the pass that decided; another configuration decides again (from cached replies where it can)."""
    revisions: int
    record: str


def item_id(source: str, key: str) -> str:
    """A key for tars: the source's own where that is safe and unique, else a readable part and a hash of the whole."""
    if re.fullmatch(r"[A-Za-z0-9_-]{1,200}", key) and key.startswith(f"{source}-"):
        return key
    path = Path(key)
    slug = re.sub(r"[^A-Za-z0-9]+", "-", (path.with_suffix("") if path.name else path).as_posix()).strip("-")[-40:]
    digest = hashlib.sha256(f"{source}\0{key}".encode()).hexdigest()[:12]
    safe_source = re.sub(r"[^A-Za-z0-9_]+", "-", source).strip("-")[:60] or "source"
    return "-".join(part for part in (safe_source, slug, digest) if part)
