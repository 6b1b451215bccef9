"""Rows of the ledger as values: an image, and what became of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Item:
    """One imported image."""

    id: str
    source: str
    key: str
    sha256: str
    extension: str
    width: int
    height: int
    split: str | None
    group: str | None
    labels: dict[str, Any]
    regions: list[dict[str, Any]]
    """`schema.GroundedObject` as JSON."""
    licence: str | None
    origin: str | None

    def row(self) -> tuple[Any, ...]:
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
        return cls(**{**values, "labels": json.loads(values["labels"]), "regions": json.loads(values["regions"])})


@dataclass(frozen=True)
class Outcome:
    """What became of an item: `valid`, `discarded` or `human`, with the record as it stands."""

    item_id: str
    state: str
    config: str
    """Digest of the pass that decided; another configuration decides again (from cached replies where it can)."""
    revisions: int
    record: str
