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
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo, field_validator

from emo_lightning.core.files import write_json
from emo_lightning.core.records import SchemaError
from emo_lightning.report.table import Cell, Column, Spread, Table, numbered, slug

PAGE = "page.json"
"""Its name in a stage's folder."""

FIGURE_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".html": "text/html"}
"""What a figure may be. An .html file must be whole in itself; it is shown in a sandboxed frame that may run its scripts."""


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
            f"{page.title}: {lost} figures are not finite (NaN or infinite) and are not shown",
        ]
    _parse(path, json.dumps(found, allow_nan=False))
    for figure in page.figures:
        if not (Path(out) / figure.file).is_file():
            msg = f"{path}: figure {figure.title!r} names {figure.file!r}, which is not there"
            raise SchemaError(msg)
    write_json(path, found)


def read_page(path: Path) -> Page:
    """Read and check a `page.json`.

    Raises:
        SchemaError: names the file, the key, what was found and what is allowed.
    """
    return _parse(Path(path), Path(path).read_bytes())


def _parse(path: Path, data: str | bytes) -> Page:
    try:
        found = _PageFile.model_validate_json(data)
    except ValidationError as error:
        msg = f"{path}: {_problem(error)}"
        raise SchemaError(msg) from None
    figures = [PageFigure(f.title, f.file, f.note or "") for f in found.figures]
    return Page(found.title, found.text, [t.table(found.title) for t in found.tables], figures, found.notes)


def _cell(found: object) -> Cell:
    """A cell of the file; a truth value is a word to the reader."""
    match found:
        case bool():
            return "yes" if found else "no"
        case None | str() | int():
            return found
        case float() if math.isfinite(found):
            return found
        case dict():
            try:
                interval = _SpreadFile.model_validate(found)
            except ValidationError as error:
                said = _problem(error).removeprefix("the file: ")
                raise ValueError(f".{said.removeprefix('key ')}" if said.startswith("key ") else said) from None
            return Spread(interval.value, interval.low, interval.high, interval.std)
        case _:
            msg = f"found {found!r}; expected a finite number, a text, null or an object with 'value'"
            raise ValueError(msg)


def _number(found: object) -> int | float | None:
    if found is None or (isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)):
        return found
    msg = f"found {found!r}; expected a finite number or null"
    raise ValueError(msg)


_Number = Annotated[int | float | None, PlainValidator(_number)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _SpreadFile(_File):
    value: _Number
    low: _Number = None
    high: _Number = None
    std: _Number = None


class _TableFile(_File):
    columns: list[str]
    rows: list[list[Annotated[Cell, PlainValidator(_cell)]]]
    title: str | None = None
    note: str | None = None
    digits: Annotated[int, Field(ge=0, le=10)] = 2
    key: str | None = None
    column_keys: list[str] | None = None
    row_keys: list[str] | None = None
    best: set[tuple[int, int]] = set()
    lower_is_better: set[str] = set()
    quiet: set[int] = set()
    quiet_note: str = ""
    groups: list[tuple[str, int]] = []
    arms_across: bool = False
    shade: list[tuple[int, int, float]] = []
    folded: bool = False

    @field_validator("rows")
    @classmethod
    def _one_cell_per_column(cls, rows: list[list[Cell]], info: ValidationInfo) -> list[list[Cell]]:
        count = len(info.data.get("columns", ()))
        for n, row in enumerate(rows):
            if len(row) != count and "columns" in info.data:
                msg = f"[{n}]: {len(row)} cells; expected {count}, one per column"
                raise ValueError(msg)
        return rows

    @field_validator("column_keys", "row_keys")
    @classmethod
    def _one_key_each(cls, keys: list[str] | None, info: ValidationInfo) -> list[str] | None:
        named = "columns" if info.field_name == "column_keys" else "rows"
        if keys is not None and named in info.data and len(set(keys)) != len(info.data[named]):
            msg = f": {len(set(keys))} keys that differ; expected {len(info.data[named])}, one for each of {named}"
            raise ValueError(msg)
        return keys

    def table(self, page_title: str) -> Table:
        title = self.title or page_title
        keys = self.column_keys or numbered(self.columns)
        return Table(
            self.key or slug(title),
            title,
            [Column(key, text, n in self.quiet) for n, (key, text) in enumerate(zip(keys, self.columns, strict=True))],
            self.rows,
            self.note or "",
            self.digits,
            row_keys=self.row_keys or [],
            best=self.best,
            lower_is_better=self.lower_is_better,
            quiet_note=self.quiet_note,
            groups=self.groups,
            arms_across=self.arms_across,
            shade={(n, m): by for n, m, by in self.shade},
            folded=self.folded,
        )


class _FigureFile(_File):
    title: str
    file: str
    note: str | None = None

    @field_validator("file")
    @classmethod
    def _beside_the_page(cls, file: str) -> str:
        inside = PurePosixPath(file)
        if inside.is_absolute() or ".." in inside.parts or inside.suffix.lower() not in FIGURE_TYPES:
            msg = f": found {file!r}; expected a file beside it that ends in {', '.join(FIGURE_TYPES)}"
            raise ValueError(msg)
        return file


class _PageFile(_File):
    title: str
    text: str = ""
    tables: list[_TableFile] = []
    figures: list[_FigureFile] = []
    notes: list[str] = []


_EXPECTED = {
    "string_type": "a text",
    "list_type": "a list",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a finite number",
    "int_type": "a whole number",
}
"""Kinds of pydantic's errors -> what is allowed, in the words of the other messages."""


def _problem(error: ValidationError) -> str:
    """The first problem in one line: key, what was found, what is allowed; an unknown key comes before what is missing for it."""
    first = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    kind, loc, found = first["type"], first["loc"], first["input"]
    if kind == "json_invalid":
        return f"not JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    if kind in ("extra_forbidden", "missing"):
        model: type[_File] = (
            {"tables": _TableFile, "figures": _FigureFile}.get(str(loc[0]), _PageFile) if len(loc) > 1 else _PageFile
        )
        model = _SpreadFile if error.title == _SpreadFile.__name__ else model
        allowed = ", ".join(sorted(model.model_fields))
        where = f"key {_dotted(loc[:-1])}" if len(loc) > 1 else "the file"
        if kind == "missing":
            return f"{where}: key {loc[-1]!r} is missing; expected {allowed}"
        return f"{where}: unknown key {loc[-1]!r}; allowed: {allowed}"
    where = f"key {_dotted(loc)}" if loc else "the file"
    if kind == "value_error":
        said = str(first["ctx"]["error"])
        return where + (said if said.startswith((":", "[", ".")) else f": {said}")
    if loc and loc[-1] == "digits":
        return f"{where}: found {found!r}; expected a whole number from 0 to 10"
    shown = repr(found) if isinstance(found, str | int | float | None) else type(found).__name__
    shown = type(found).__name__ if kind in ("list_type", "model_type") else shown
    return f"{where}: found {shown}; expected {_EXPECTED.get(kind, first['msg'])}"


def _dotted(loc: Iterable[int | str]) -> str:
    """`tables[0].rows[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")


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
