"""A stage's metrics as one flat mapping: the numbers of its results, and the last value of each column that was logged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import MAX_OBJECT_BYTES
from emo_lightning.core.foreign import decode_json, read_capped
from emo_lightning.core.logged import logged_rows, start_of

_PAGE = "page.json"
_BOOKS = {"stage.json", _PAGE}
"""JSON in a stage's folder that is not read as results; a page is, where a stage wrote nothing else."""


def stage_metrics(folder: Path) -> dict[str, float]:
    """All metrics of a stage's folder: numbers of its JSON files, and the last value of each column that was logged.

    A list in a JSON is left out (a curve or a matrix is no metric to order runs by). Of a stage that wrote a `page.json` and no
    other result, the numbers of its tables are taken, as TABLE/ROW/COLUMN by their keys. Values may be NaN.

    Raises:
        ValueError: a file cannot be read; names it.
    """
    found: dict[str, float] = {}
    # The later start has the last word.
    for path in sorted(folder.glob("logs/version_*/metrics.csv"), key=start_of):
        found |= _last_logged(path)
    results = [path for path in sorted(folder.glob("*.json")) if path.name not in _BOOKS]
    for path in results:
        found |= dict(_leaves(_json(path)))
    if not results and (folder / _PAGE).is_file():
        found |= dict(_of_page(folder / _PAGE))
    return found


def _json(path: Path) -> object:
    return decode_json(read_capped(path, MAX_OBJECT_BYTES), path, on_constant=float)


def _leaves(tree: object, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(tree, dict):
        for key, below in tree.items():
            yield from _leaves(below, f"{prefix}{key}/")
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield prefix.rstrip("/"), float(tree)


def _of_page(path: Path) -> Iterator[tuple[str, float]]:
    """TABLE/ROW/COLUMN and number of every cell that holds one; of tables with keys alone (see `report.page`)."""
    page: Any = _json(path)
    try:
        for table in page["tables"]:
            if "key" not in table:
                continue
            rows = table.get("row_keys") or [str(row[0]) for row in table["rows"]]
            columns = table.get("column_keys") or table["columns"]
            for row_key, row in zip(rows, table["rows"], strict=True):
                for column, cell in zip(columns, row, strict=True):
                    value = cell["value"] if isinstance(cell, dict) else cell
                    if isinstance(value, int | float) and not isinstance(value, bool):
                        yield f"{table['key']}/{row_key}/{column}", float(value)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        msg = f"{path}: is no page with tables: {error!r}"
        raise InputError(msg) from None


def _last_logged(path: Path) -> dict[str, float]:
    last: dict[str, float] = {}
    for where, row in logged_rows(path):
        for name, text in row.items():
            if text and name not in ("epoch", "step"):
                try:
                    last[name] = float(text)
                except ValueError:
                    msg = f"{where}: {name} is {text[:40]!r}; expected a number"
                    raise InputError(msg) from None
    return last


def usable(value: float | None) -> bool:
    """Whether runs can be ordered by it."""
    return value is not None and math.isfinite(value)
