"""Index files row by row, each with its place: JSON arrays of any size, CSV and tab-separated tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from data_prep.sources.base import Refusal, RefusedError, SourceError
from data_prep.sources.tree import shown

_CHUNK = 2**20
_MAX_VALUE = 64 * 2**20
"""Characters of one element of a JSON array: more is taken for a broken file, not held in memory."""
_MAX_SMALL = 2**20
_AFTER_VALUE = tuple(",]} \t\r\n")

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    file: str
    """Path, with the element's number (from 0) in brackets for JSON and Parquet, where a line may hold everything."""
    line: int | None

    def attempt(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Refusal:
        """What `make` makes of the row, or the refusal at this place."""
        try:
            return make(*args, **kwargs)
        except RefusedError as error:
            return Refusal(self.file, self.line, str(error))


class _JsonReader:
    """One JSON text, value by value, with a bounded buffer."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        try:
            self._file = open(path, encoding="utf-8-sig")  # noqa: SIM115 - closed by json_records
        except OSError as error:
            raise unreadable(path, error) from None
        self._buffer = ""
        self._at = 0
        self._ended = False
        # NaN and Infinity are no JSON, but some libraries write them for "missing".
        self._decoder = json.JSONDecoder(parse_constant=lambda _: None)

    def close(self) -> None:
        self._file.close()

    def error(self, text: str) -> SourceError:
        return SourceError(f"{self.path}:{self.line}: {text}")

    def _more(self) -> None:
        # What is unfinished doubles: a value of any length is decoded a few times, not once per block.
        try:
            chunk = self._file.read(max(_CHUNK, len(self._buffer) - self._at))
        except UnicodeDecodeError as error:
            msg = f"not UTF-8: {error.reason} after byte {error.start} of a block"
            raise self.error(msg) from None
        self._buffer = self._buffer[self._at :] + chunk
        self._at = 0
        self._ended = not chunk

    def peek(self) -> str:
        """The next character that is not blank, "" at the end."""
        while True:
            while self._at < len(self._buffer):
                char = self._buffer[self._at]
                if char not in " \t\r\n":
                    return char
                self.line += char == "\n"
                self._at += 1
            if self._ended:
                return ""
            self._more()

    def take(self, *allowed: str) -> str:
        """Step over the next character, which must be one of these."""
        char = self.peek()
        if char not in allowed or not char:
            expected = " or ".join(repr(c) for c in allowed)
            msg = f"not JSON: {'the file ends' if not char else shown(char)} where {expected} is expected"
            raise self.error(msg)
        self._at += 1
        return char

    def value(self) -> object:
        """Decode the next value, reading on while it is incomplete."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                # A value that is cut off by the end of the buffer looks broken until the rest of it is there.
                if self._ended or isinstance(error, RecursionError) or len(self._buffer) - self._at > _MAX_VALUE:
                    msg = f"not JSON: {getattr(error, 'msg', None) or error}"
                    raise self.error(msg) from None
            else:
                # A number that touches the end of the buffer may go on behind it ("12", "1.", "1e").
                if self._ended or self._buffer[end : end + 1] in _AFTER_VALUE or not isinstance(value, int | float):
                    self.line += self._buffer.count("\n", self._at, end)
                    self._at = end
                    return value
            self._more()


def json_records(path: Path, member: str | None = None) -> Iterator[tuple[Place, str, object]]:
    """Elements of a JSON file, one in memory at a time.

    Args:
        path: an array, an object (its values are the elements), or JSON lines (by the name `.jsonl`).
        member: the file is an object, and the array lies under this key.

    Yields:
        (place, key, element); the key is "" but for the values of an object.

    Raises:
        SourceError: the file cannot be read, is not JSON, or not of this shape; names the line.
    """
    reader = _JsonReader(path)
    try:
        if path.suffix == ".jsonl":
            number = 0
            while reader.peek():
                yield Place(f"{path}[{number}]", reader.line), "", reader.value()
                number += 1
            return
        if member is not None:
            _skip_to(reader, member)
        yield from _elements(reader)
        if member is None and (rest := reader.peek()):
            msg = f"not JSON: {shown(rest)} after the end (JSON lines have the name .jsonl)"
            raise reader.error(msg)
    finally:
        reader.close()


def _elements(reader: _JsonReader) -> Iterator[tuple[Place, str, object]]:
    opened = reader.take("[", "{")
    closing = "]" if opened == "[" else "}"
    number = 0
    if reader.peek() == closing:
        reader.take(closing)
        return
    while True:
        reader.peek()
        place = Place(f"{reader.path}[{number}]", reader.line)
        key = _key(reader) if opened == "{" else ""
        yield place, key, reader.value()
        number += 1
        if reader.take(",", closing) == closing:
            return


def _skip_to(reader: _JsonReader, member: str) -> None:
    reader.take("{")
    while reader.peek() == '"':
        if _key(reader) == member:
            if reader.peek() != "[":
                msg = f"key {member!r} holds no list"
                raise reader.error(msg)
            return
        reader.value()
        if reader.take(",", "}") == "}":
            break
    msg = f"{reader.path}: key {member!r} is missing"
    raise SourceError(msg)


def _key(reader: _JsonReader) -> str:
    if reader.peek() != '"':
        reader.take('"')
    key = reader.value()
    assert isinstance(key, str)
    reader.take(":")
    return key


def small_json(path: Path) -> dict[str, object]:
    """The object of one small file.

    Raises:
        RefusedError: it cannot be read, has more than a mebibyte, is not JSON, or is no object.
    """
    if path.stat().st_size > _MAX_SMALL:
        msg = f"too large: {path.name} has {path.stat().st_size} bytes, at most {_MAX_SMALL} are read"
        raise RefusedError(msg)
    try:
        value = json.loads(path.read_bytes(), parse_constant=lambda _: None)
    except OSError as error:
        msg = f"cannot be read: {path.name}: {error.strerror or error}"
        raise RefusedError(msg) from None
    except (ValueError, RecursionError) as error:
        msg = f"not JSON: {path.name}: {error}"
        raise RefusedError(msg) from None
    return as_object(value, path.name)


def table_rows(
    path: Path, required: tuple[str, ...], *, delimiter: Literal[",", "\t"] = ",", names: tuple[str, ...] | None = None
) -> Iterator[tuple[Place, dict[str, str] | Refusal]]:
    """Rows of a CSV or a tab-separated table.

    Args:
        path: UTF-8.
        required: columns that must be there; others may.
        delimiter: "," (quotes as in CSV) or a tab (quotes mean nothing).
        names: of the columns, where the file has no header.

    Yields:
        (place, values by column) or (place, a refusal: another number of fields). Names of columns are lower case, without
        brackets around them; blank lines are skipped.

    Raises:
        SourceError: the file cannot be read, is not UTF-8 or no CSV, or a required column is missing.
    """
    try:
        file = open(path, encoding="utf-8-sig", newline="")  # noqa: SIM115 - closed below
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if delimiter == "\t" else csv.reader(file)
        line = 1
        columns = names
        try:
            for row in rows:
                place, line = Place(str(path), line), rows.line_num + 1
                if not any(row):
                    continue
                if columns is None:
                    columns = _columns(path, row, required)
                elif len(row) != len(columns):
                    yield place, Refusal(place.file, place.line, f"wrong number of fields: {len(row)}, expected {len(columns)}")
                else:
                    yield place, dict(zip(columns, row, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            msg = f"{path}:{line}: not a table: {error}"
            raise SourceError(msg) from None
    if columns is None:
        msg = f"{path}: empty; expected a header with {', '.join(required)}"
        raise SourceError(msg)


def unreadable(path: Path, error: OSError) -> SourceError:
    """The error for an index that is there but cannot be opened."""
    return SourceError(f"{path}: cannot be read: {error.strerror or error}")


def _columns(path: Path, header: list[str], required: tuple[str, ...]) -> tuple[str, ...]:
    columns = tuple(name.strip().strip("[]").strip().lower() for name in header)
    if missing := [name for name in required if name not in columns]:
        found = ", ".join(name[:40] for name in columns)
        msg = f"{path}:1: column {', '.join(missing)} is missing; found: {found[:300]}"
        raise SourceError(msg)
    return columns


def as_object(value: object, what: str) -> dict[str, object]:
    """A JSON object.

    Raises:
        RefusedError: something else.
    """
    if not isinstance(value, dict):
        msg = f"no JSON object: {what} is {shown(value)}"
        raise RefusedError(msg)
    return value


def text(row: Mapping[str, object], key: str) -> str:
    """A text that must be there.

    Raises:
        RefusedError: missing, empty or no text.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        msg = f"key {key!r} is {'missing' if value is None else shown(value)}: expected text"
        raise RefusedError(msg)
    return value.strip()


def optional_text(row: Mapping[str, object], key: str) -> str | None:
    """A text, or None where the key is missing, null or empty.

    Raises:
        RefusedError: no text.
    """
    value = row.get(key)
    return None if value is None or value == "" else text(row, key)


def number(row: Mapping[str, object], key: str, low: float, high: float) -> float:
    """A number within limits.

    Raises:
        RefusedError: missing, no number or outside.
    """
    value = row.get(key)
    try:
        found = float(value) if isinstance(value, int | float | str) else None
    except ValueError:
        found = None
    # `not (low <= x <= high)` and nothing shorter: it catches NaN as well.
    if found is None or not low <= found <= high:
        msg = f"{key} is out of range: {'missing' if value is None else shown(value)}, expected {low:g} to {high:g}"
        raise RefusedError(msg)
    return found
