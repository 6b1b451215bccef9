"""A table with everything that may go wrong in a file, and what it came from."""

from __future__ import annotations

from emo_lightning.core.tables.provenance import Data, Provenance
from emo_lightning.core.tables.table import Spread, Table, columns

SOURCE = Provenance(
    "demo", "table5", "emo demo --fast", "abc1234", "f" * 64, "2026-01-01", (Data("d/manifest.json", "e" * 64),)
)


def table(**fields: object) -> Table:
    """A small table with everything that may go wrong in a file."""
    given: dict[str, object] = {
        "key": "t",
        "title": "A & B, 50 %",
        "columns": columns("arm_name", "IoU ↑", "note | x"),
        "rows": [
            ["[base]", Spread(36.60123, 34.0, 39.5), "50 % {x}\\y"],
            ["ours", Spread(73.5, std=0.5), None],
            ["none", None, "~^"],
        ],
        "note": "a < b",
        "name": "t",
        "sources": [SOURCE],
        "best": {(1, 1)},
    }
    return Table(**{**given, **fields})  # type: ignore[arg-type]  # the tests name fields of Table
