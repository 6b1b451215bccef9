"""What any stage may leave for the report: `page.json`, tables and figures without knowledge of what they mean.

    {"title": "Calibration", "text": "…", "notes": ["3 predictions had no scores"],
     "tables": [{"title": "ECE", "columns": ["arm", "ECE ↓"], "rows": [["base", {"value": 4.1, "low": 3.0, "high": 5.5}]],
                 "note": "15 bins", "digits": 2}],
     "figures": [{"title": "Reliability", "file": "reliability.svg", "note": "…"}]}

A cell is a text, a number, null (not computed), or an object with `value` and either `low` and `high` (an interval) or `std`.
Files stand beside `page.json`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from emo_lightning.core.files import write_json
from emo_lightning.core.records import SchemaError

PAGE = "page.json"
"""Its name in a stage's folder."""

FIGURE_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".html": "text/html"}
"""What a figure may be. An .html file must be whole in itself; it is shown in a sandboxed frame that may run its scripts."""


@dataclass(frozen=True)
class Spread:
    """A number with its interval, or with its standard deviation."""

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None


Cell: TypeAlias = str | int | float | Spread | None

MISSING = "–"
"""What stands where a cell is null."""


@dataclass
class PageTable:
    """A table; the first column names its rows."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    digits: int = 2
    """Behind the decimal point, of every number that is not whole."""


@dataclass
class PageFigure:
    """A picture beside `page.json`."""

    title: str
    file: str
    note: str = ""


@dataclass
class Page:
    """Everything that a stage has to show."""

    title: str
    text: str = ""
    tables: list[PageTable] = field(default_factory=list)
    figures: list[PageFigure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What was skipped or could not be computed; stands on top of the report."""


def write_page(out: Path, page: Page) -> None:
    """Write `out/page.json`; a number that is not finite becomes null, and a note counts them.

    Raises:
        SchemaError: a row has not as many cells as there are columns, or a figure's file is missing or of no known type.
    """
    path = Path(out) / PAGE
    lost = [0]
    value = _plain(page, lost)
    if lost[0]:
        value["notes"].append(f"{page.title}: {lost[0]} figures are not finite (NaN or infinite) and are not shown")
    _parse(path, value)
    for figure in page.figures:
        if not (Path(out) / figure.file).is_file():
            msg = f"{path}: figure {figure.title!r} names {figure.file!r}, which is not there"
            raise SchemaError(msg)
    write_json(path, value)


def read_page(path: Path) -> Page:
    """Read and check a `page.json`.

    Raises:
        SchemaError: names the file, the key, what was found and what is allowed.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not JSON: {error}"
        raise SchemaError(msg) from None
    return _parse(Path(path), found)


def cell_text(cell: Cell, digits: int = 2) -> str:
    """`36.60`, `36.60 [33.10, 40.25]`, `73.74 ± 0.52`, a text as it is, or a dash for null."""
    match cell:
        case None | Spread(value=None):
            return MISSING
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case float():
            return _fixed(cell, digits)
        case Spread(value=value, low=low, high=high, std=std):
            assert value is not None  # The first case has taken it.
            about = f" ± {std:.{digits}f}" if std is not None else ""
            if low is not None and high is not None:
                about += f" [{_fixed(low, digits)}, {_fixed(high, digits)}]"
            return f"{_fixed(value, digits)}{about}"
        case _:
            msg = f"cell {cell!r}; expected a text, a number, Spread or None"
            raise TypeError(msg)


def with_minus(text: str) -> str:
    """A minus sign instead of the hyphen before a figure, for readers; programs read the hyphen."""
    return re.sub(r"(?<![\w.])-(?=[\d.])", "−", text)


def _fixed(value: float, digits: int) -> str:
    """Never `-0.00`."""
    text = f"{value:.{digits}f}"
    return text if text.strip("-0.") else text.removeprefix("-")


def _plain(value: Any, lost: list[int]) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        given = asdict(value)
        if isinstance(value, Spread):
            given = {k: v for k, v in given.items() if k == "value" or v is not None}
        return {k: _plain(getattr(value, k), lost) for k in given}
    if isinstance(value, list | tuple):
        return [_plain(v, lost) for v in value]
    if isinstance(value, str | int) or value is None:
        return value
    number = float(value)  # numpy's floats too
    if not math.isfinite(number):
        lost[0] += 1
        return None
    return number


def _parse(path: Path, found: Any) -> Page:
    body = _object(path, "", found, {"title"}, {"text", "tables", "figures", "notes"})
    tables = [_table(path, f"tables[{n}]", t) for n, t in enumerate(_list(path, "tables", body.get("tables", [])))]
    figures = [_figure(path, f"figures[{n}]", f) for n, f in enumerate(_list(path, "figures", body.get("figures", [])))]
    notes = [_text(path, f"notes[{n}]", note) for n, note in enumerate(_list(path, "notes", body.get("notes", [])))]
    return Page(_text(path, "title", body["title"]), _text(path, "text", body.get("text", "")), tables, figures, notes)


def _table(path: Path, at: str, found: Any) -> PageTable:
    body = _object(path, at, found, {"columns", "rows"}, {"title", "note", "digits"})
    columns = [_text(path, f"{at}.columns", c) for c in _list(path, f"{at}.columns", body["columns"])]
    rows = []
    for n, row in enumerate(_list(path, f"{at}.rows", body["rows"])):
        cells = [_cell(path, f"{at}.rows[{n}]", cell) for cell in _list(path, f"{at}.rows[{n}]", row)]
        if len(cells) != len(columns):
            msg = f"{path}: key {at}.rows[{n}]: {len(cells)} cells; expected {len(columns)}, one per column"
            raise SchemaError(msg)
        rows.append(cells)
    digits = body.get("digits", 2)
    if isinstance(digits, bool) or not isinstance(digits, int) or not 0 <= digits <= 10:
        msg = f"{path}: key {at}.digits: found {digits!r}; expected a whole number from 0 to 10"
        raise SchemaError(msg)
    title, note = (_text(path, f"{at}.{k}", body.get(k) or "") for k in ("title", "note"))
    return PageTable(title, columns, rows, note, digits)


def _figure(path: Path, at: str, found: Any) -> PageFigure:
    body = _object(path, at, found, {"title", "file"}, {"note"})
    file = _text(path, f"{at}.file", body["file"])
    inside = PurePosixPath(file)
    if inside.is_absolute() or ".." in inside.parts or inside.suffix.lower() not in FIGURE_TYPES:
        msg = f"{path}: key {at}.file: found {file!r}; expected a file beside it that ends in {', '.join(FIGURE_TYPES)}"
        raise SchemaError(msg)
    return PageFigure(_text(path, f"{at}.title", body["title"]), file, _text(path, f"{at}.note", body.get("note") or ""))


def _cell(path: Path, at: str, found: Any) -> Cell:
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, bool):
        return "yes" if found else "no"
    if isinstance(found, dict):
        body = _object(path, at, found, {"value"}, {"low", "high", "std"})
        return Spread(**{key: _number(path, f"{at}.{key}", value) for key, value in body.items()})
    return _number(path, at, found)


def _number(path: Path, at: str, found: Any) -> Any:
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        msg = f"{path}: key {at}: found {found!r}; expected a finite number, a text, null or an object with 'value'"
        raise SchemaError(msg)
    return found


def _text(path: Path, at: str, found: Any) -> str:
    if not isinstance(found, str):
        msg = f"{path}: key {at}: found {found!r}; expected a text"
        raise SchemaError(msg)
    return found


def _list(path: Path, at: str, found: Any) -> Sequence[Any]:
    if not isinstance(found, list):
        msg = f"{path}: key {at}: found {type(found).__name__}; expected a list"
        raise SchemaError(msg)
    return found


def _object(path: Path, at: str, found: Any, needed: set[str], allowed: set[str]) -> Mapping[str, Any]:
    where = f"key {at}" if at else "the file"
    if not isinstance(found, dict):
        msg = f"{path}: {where}: found {type(found).__name__}; expected an object"
        raise SchemaError(msg)
    if missing := sorted(needed - set(found)):
        msg = f"{path}: {where}: key {missing[0]!r} is missing; expected {', '.join(sorted(needed | allowed))}"
        raise SchemaError(msg)
    if unknown := sorted(set(found) - needed - allowed):
        msg = f"{path}: {where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(needed | allowed))}"
        raise SchemaError(msg)
    return found
