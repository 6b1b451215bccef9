"""The form of `page.json` on disk, and what is said of one that has another."""

from __future__ import annotations

import math
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, ValidationInfo, field_validator

from emo_lightning.core.tables.table import Cell, Column, Spread, Table, numbered, slug
from emo_lightning.report import problems

FIGURE_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp", ".html": "text/html"}
"""What a figure may be. An .html file must be whole in itself; it is shown in a sandboxed frame that may run its scripts."""


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
                said = problem(error).removeprefix("the file: ")
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
        """The table; what has no title is called like the page, and keys that are not there follow from the titles."""
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


class PageFile(_File):
    """What `page.json` holds."""

    title: str
    text: str = ""
    tables: list[_TableFile] = []
    figures: list[_FigureFile] = []
    notes: list[str] = []


def problem(error: ValidationError) -> str:
    """As `problems.problem`, with what is allowed in a page."""
    return problems.problem(error, _fields)


def _fields(checked: str, loc: tuple[int | str, ...]) -> set[str]:
    """Names of what may stand in the object that the last part of `loc` is in; `checked` is the class that was asked."""
    if checked == _SpreadFile.__name__:
        return set(_SpreadFile.model_fields)
    parts = {"tables": set(_TableFile.model_fields), "figures": set(_FigureFile.model_fields)}
    return parts[str(loc[0])] if len(loc) > 1 else set(PageFile.model_fields)
