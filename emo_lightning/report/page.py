"""What any stage may leave for the report: `page.json`, tables and figures without knowledge of what they mean.

    {"title": "Calibration", "text": "…", "notes": ["3 predictions had no scores"],
     "tables": [{"key": "calibration-ece", "title": "ECE", "columns": ["arm", "ECE ↓"], "column_keys": ["arm", "ece"],
                 "rows": [["base", {"value": 4.1, "low": 3.0, "high": 5.5}]], "note": "15 bins", "digits": 2}],
     "figures": [{"title": "Reliability", "file": "reliability.svg", "note": "…"}]}

A cell is a text, a number, null (not computed), or an object with `value` and either `low` and `high` (an interval) or `std`.
Of a table `columns` and `rows` are needed. Without keys, as in files made before 0.2.0, they follow from the titles. The other
keys are the fields of `table.Table`. A figure's file stands beside `page.json`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from emo_lightning.core.files import MAX_OBJECT_BYTES, write_json
from emo_lightning.core.foreign import decode_json, read_capped
from emo_lightning.core.records import SchemaError
from emo_lightning.core.tables.table import Cell, Spread, Table, numbered
from emo_lightning.report.page_file import PageFile, problem

PAGE = "page.json"
"""Its name in a stage's folder."""


@dataclass
class PageFigure:
    """A drawing beside `page.json`."""

    title: str
    file: str
    note: str = ""


@dataclass
class Page:
    """Everything that a stage has to show."""

    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was skipped or could not be computed; stands on top of the report."""


def write_page(out: Path, page: Page) -> None:
    """Write `out/page.json`; a number that is not finite becomes null, and a note counts them.

    Raises:
        SchemaError: a row has not as many cells as there are columns, two columns or rows have one key, or a figure's file is
            missing or of no known type.
    """
    path = Path(out) / PAGE
    found: dict[str, object] = {
        "title": page.title,
        "text": page.text,
        "tables": [_table_json(table) for table in page.tables],
        "figures": [{"title": f.title, "file": f.file, "note": f.note} for f in page.figures],
        "notes": page.notes,
    }
    if lost := sum(_not_finite(cell) for table in page.tables for row in table.rows for cell in row):
        found["notes"] = [
            *page.notes,
            f"{page.title}: {lost} numbers are not finite (NaN or infinite) and are not shown",
        ]
    _parse(path, json.dumps(found, allow_nan=False))
    for figure in page.figures:
        if not (Path(out) / figure.file).is_file():
            msg = f"{path}: figure {figure.title!r} names {figure.file!r}, which is not there"
            raise SchemaError(msg)
    write_json(path, found)


_MOST_VALUES = 300_000
"""Of a page, by its commas: nobody reads a table of so many cells."""


def read_page(path: Path) -> Page:
    """Read and check a `page.json`.

    Raises:
        SchemaError: names the file, the key, what was found and what is allowed.
    """
    return _parse(Path(path), read_capped(path, MAX_OBJECT_BYTES, SchemaError))


def _parse(path: Path, data: str | bytes) -> Page:
    if (values := data.count(",") if isinstance(data, str) else data.count(b",")) > _MOST_VALUES:
        # pydantic keeps a complaint of each.
        msg = f"{path}: {values:,} values; at most {_MOST_VALUES:,} are read as one page"
        raise SchemaError(msg)
    # What pydantic's own reader believes (depth, digits) is refused here; of numbers that are not finite it names the key.
    decode_json(data, path, SchemaError, on_constant=float)
    try:
        found = PageFile.model_validate_json(data)
    except ValidationError as error:
        msg = f"{path}: {problem(error)}"
        raise SchemaError(msg) from None
    figures = [PageFigure(f.title, f.file, f.note or "") for f in found.figures]
    return Page(found.title, found.text, [t.table(found.title) for t in found.tables], figures, found.notes)


def _table_json(table: Table) -> dict[str, object]:
    found: dict[str, object] = {
        "key": table.key,
        "title": table.title,
        "columns": [column.title for column in table.columns],
        "rows": [[_cell_json(cell) for cell in row] for row in table.rows],
        "note": table.note,
        "digits": table.digits,
    }
    if table.column_keys != numbered([column.title for column in table.columns]):
        found["column_keys"] = table.column_keys
    if table.row_keys != numbered([str(row[0]) for row in table.rows]):
        found["row_keys"] = table.row_keys
    more: dict[str, object] = {
        "best": sorted(table.best),
        "lower_is_better": sorted(table.lower_is_better),
        "quiet": sorted(table.quiet),
        "quiet_note": table.quiet_note,
        "groups": table.groups,
        "arms_across": table.arms_across,
        "shade": [(n, m, by) for (n, m), by in table.shade.items()],
        "folded": table.folded,
    }
    return found | {key: value for key, value in more.items() if value}


def _cell_json(cell: Cell) -> object:
    if isinstance(cell, Spread):
        given = {"value": cell.value, "low": cell.low, "high": cell.high, "std": cell.std}
        return {key: _number_json(value) for key, value in given.items() if key == "value" or value is not None}
    return cell if isinstance(cell, str) else _number_json(cell)


def _number_json(value: float | None) -> float | int | None:
    """Numpy's numbers too; null for one that is not finite."""
    if value is None or isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def _not_finite(cell: Cell) -> int:
    """How many of a cell's numbers are not finite."""
    numbers = (cell.value, cell.low, cell.high, cell.std) if isinstance(cell, Spread) else (cell,)
    return sum(not isinstance(n, str) and n is not None and not math.isfinite(n) for n in numbers)
