"""Indexes that are tables: CSV, tabs or semicolons, a row at a time."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal

from data_prep.sources.base import SourceError, SourceRefusal
from data_prep.sources.places import Place, RowCount, open_text
from data_prep.sources.tree import encodable
from emo_lightning.core.text import printable

_MAX_LINE = 2**20
"""Characters of one line, and of one row."""
_MAX_ROW_LINES = 1000


class _Lines:
    """The rows of a table, each from one line, or from several where a quoted field goes over them."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self.text = ""
        """Of the last row."""
        self._file = file
        self._waiting: list[str] = []
        self._number = 0
        self._rows = RowCount(path)

    def _next(self) -> str:
        self._number += 1
        if self._waiting:
            return self._waiting.pop()
        line = self._file.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            msg = f"{self.path}:{self._number}: not a table: a line of more than {_MAX_LINE:,} characters"
            raise SourceError(msg)
        return line

    def row(self, delimiter: str, *, quotes: bool) -> tuple[Place, list[str] | SourceRefusal] | None:
        """The next row that is not blank; None at the end."""
        while first := self._next():
            place = self._rows.place(str(self.path), self._number)
            cells = self._cells(first, place, delimiter, quotes)
            if isinstance(cells, SourceRefusal) or any(cells):
                return place, cells
        return None

    def _cells(self, first: str, place: Place, delimiter: str, quotes: bool) -> list[str] | SourceRefusal:
        self.text = first
        more: list[str] = []
        size, odd, reason = len(first), first.count('"') % 2, ""
        while True:
            if not more or not odd:
                self.text = "".join([first, *more])
                try:
                    cells = split_row(self.text, delimiter, quotes=quotes)
                    return cells if encodable(self.text) else place.refuse("not UTF-8")
                except csv.Error as error:
                    reason = str(error)
            # What begins with a quote that never ends is one row: those behind it are read again, each on its own.
            line = self._next() if odd and len(more) < _MAX_ROW_LINES and size < _MAX_LINE else ""
            if not line:
                self._waiting += reversed(more)
                assert place.line is not None
                self._number = place.line
                return place.refuse(f"not a row of a table: {reason}")
            more.append(line)
            size += len(line)
            odd = (odd + line.count('"')) % 2


def split_row(text: str, delimiter: str, *, quotes: bool) -> list[str]:
    """The fields of a row.

    Raises:
        csv.Error: a quote that does not end, or ends inside of a field.
    """
    if not quotes:
        return text.rstrip("\r\n").split(delimiter)
    return next(csv.reader([text], delimiter=delimiter, strict=True), [])


def table_rows(
    path: Path,
    required: tuple[str | tuple[str, ...], ...],
    *,
    delimiter: Literal[",", ";", "\t"] = ",",
    names: tuple[str, ...] | None = None,
) -> Iterator[tuple[Place, dict[str, str] | SourceRefusal]]:
    """Rows of a table with commas, semicolons or tabs between its columns.

    Args:
        path: UTF-8, or UTF-16 with its mark.
        required: columns that must be there, each by its name or by one of several; others may.
        delimiter: matters where there is no header, and where quotes mean nothing: of a tab they do so unless the header has some. A header
            with another of the three says that the rows have it too.
        names: of the columns, where the file has no header.

    Yields:
        (place, values by column) or (place, a refusal: another number of fields, a quote that does not end, not UTF-8). Names of
        columns are lower case, without brackets around them; blank lines are skipped.

    Raises:
        SourceError: the file cannot be read, a required column is missing or stands there under two names, a column stands there twice,
            or a line is too long.
    """
    quotes = delimiter != "\t"
    separator: str = delimiter
    columns = names
    wanted = [(one,) if isinstance(one, str) else one for one in required]
    with open_text(path) as file:
        lines = _Lines(path, file)
        while (read := lines.row(separator, quotes=quotes)) is not None:
            place, row = read
            if columns is None:
                if lines.text.strip():
                    separator, quotes, columns = _columns(path, place, lines.text, wanted, separator)
            elif isinstance(row, SourceRefusal):
                yield place, row
            elif len(row) != len(columns):
                yield place, place.refuse(f"wrong number of fields: {len(row)}, expected {len(columns)}")
            else:
                yield place, dict(zip(columns, row, strict=True))
    if columns is None:
        msg = f"{path}: empty; expected a header with {', '.join(map(_any_of, wanted))}"
        raise SourceError(msg)


def column_of(row: Mapping[str, object], names: Sequence[str]) -> str:
    """Which of several names of a required column a row has."""
    return next(name for name in names if name in row)


def _columns(
    path: Path, place: Place, header: str, required: Sequence[tuple[str, ...]], separator: str
) -> tuple[str, bool, tuple[str, ...]]:
    """What separates the columns, whether quotes mean something, and the names of the columns."""
    found: dict[str, tuple[str, ...]] = {}
    for mark in dict.fromkeys((separator, "\t", ";", ",")):
        quotes = mark != "\t" or separator != "\t" or header.startswith('"')
        try:
            cells = split_row(header, mark, quotes=quotes)
        except csv.Error:
            continue
        found[mark] = tuple(name.strip().strip("[]").strip().lower() for name in cells)
        said = [[name for name in names if name in found[mark]] for names in required]
        if all(said):
            if twice := [name for name, times in Counter(found[mark]).items() if times > 1 and name]:
                msg = f"{path}:{place.line}: column {printable(', '.join(twice))[:80]} stands there twice"
                raise SourceError(msg)
            if same := next((names for names in said if len(names) > 1), None):
                msg = f"{path}:{place.line}: columns {' and '.join(same)} say the same; keep one"
                raise SourceError(msg)
            return mark, quotes, found[mark]
    # As whoever made it has probably separated them.
    columns = max(found.values(), key=len, default=(header,))
    missing = [_any_of(names) for names in required if not set(names) & set(columns)]
    msg = f"{path}:{place.line}: column {', '.join(missing)} is missing; found: {', '.join(printable(name)[:40] for name in columns)[:300]}"
    raise SourceError(msg)


def _any_of(names: Sequence[str]) -> str:
    return " or ".join(names)
