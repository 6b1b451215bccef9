"""A table as CSV, and as the plain columns and rows that W&B takes: to compute with."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Literal

from emo_lightning.core.tables.table import Cell, Spread, Table
from emo_lightning.core.text import csv_cell

Extra = Literal["low", "high", "std"]


def as_csv(table: Table) -> str:
    """Full precision; every row ends with the sources (one JSON list)."""
    columns, rows = flat_rows(table)
    sources = json.dumps([source.as_json() for source in table.sources], ensure_ascii=False)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*map(csv_cell, columns), "sources"])
    writer.writerows([*(csv_cell(cell) if isinstance(cell, str) else cell for cell in row), sources] for row in rows)
    return out.getvalue()


def flat_rows(table: Table) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Columns and rows of plain values: an interval or a deviation stands in columns of its own."""
    extras = [_extras([row[m] for row in table.rows]) for m in range(len(table.columns))]
    named = zip(table.headings, extras, strict=True)
    columns = [column for name, extra in named for column in [name, *(f"{name} {e}" for e in extra)]]
    rows = [[v for cell, extra in zip(row, extras, strict=True) for v in _values(cell, extra)] for row in table.rows]
    return columns, rows


def _extras(cells: Sequence[Cell]) -> list[Extra]:
    spreads = [cell for cell in cells if isinstance(cell, Spread)]
    extras: tuple[Extra, ...] = ("low", "high", "std")
    return [key for key in extras if any(getattr(s, key) is not None for s in spreads)]


def _values(cell: Cell, extras: Sequence[Extra]) -> list[str | int | float | None]:
    if isinstance(cell, Spread):
        return [cell.value, *(getattr(cell, key) for key in extras)]
    return [cell, *[None] * len(extras)]
