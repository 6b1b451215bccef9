"""Index files row by row, each with its place: JSON arrays of any size, CSV and tab-separated tables."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, ParamSpec, TypeVar

from data_prep.sources.base import Refusal, RefusedError, SourceError
from data_prep.sources.tree import encodable, shown
from emo_lightning.core.errors import MissingFileError
from emo_lightning.core.foreign import as_number, decode_json, json_lines, read_capped

_CHUNK = 2**20
_MAX_VALUE = 8 * 2**20
"""Characters of one element of a JSON array: more is taken for a broken file, not held in memory."""
_MAX_SMALL = 2**20
_MAX_LINE = 2**20
"""Characters of one line, and of one row, of a table."""
_MAX_ROW_LINES = 1000
_SCALAR = re.compile(r"[^\s,\[\]{}\":]++")
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
"""What says where a value ends: whole strings, brackets, and a quote whose string does not end."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    file: str
    """Path, with the element's number (from 0) in brackets for JSON and Parquet, where a line may hold everything."""
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def attempt(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Refusal:
        """What `make` makes of the row, or the refusal at this place (or the one that the row already is)."""
        for arg in args:
            if isinstance(arg, Refusal):
                return arg
        try:
            return make(*args, **kwargs)
        except RefusedError as error:
            return Refusal(self.file, self.line, str(error))


class _JsonReader:
    """One JSON text, value by value, with a bounded buffer.

    The text of a value is found by its brackets and quotes alone; what is in it is for the decoder of foreign JSON to say.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.line = 1
        self._file = open_text(path)
        self._buffer = ""
        self._at = 0
        self._ended = False

    def close(self) -> None:
        self._file.close()

    def error(self, text: str) -> SourceError:
        return SourceError(f"{self.path}:{self.line}: {text}")

    def _more(self) -> None:
        # What is unfinished doubles: a value of any length is looked at a few times, not once per block.
        chunk = self._file.read(max(_CHUNK, len(self._buffer) - self._at))
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

    def value(self, where: str) -> object:
        """The next value; a `Refusal` where it has an end but is not JSON that can be used.

        Args:
            where: for the refusal.
        """
        char = self.peek()
        line = self.line
        text = self._text(char)
        self.line += text.count("\n")
        try:
            return _decoded(text, where)
        except SourceError as error:
            reason = str(error).removeprefix(f"{where}: ")
            if reason.startswith("not JSON"):
                # Where it ends is then a guess.
                msg = f"{self.path}:{line}: {reason}"
                raise SourceError(msg) from None
            return Refusal(where, line, reason)

    def _text(self, char: str) -> str:
        """The text of the next value, reading on while it is incomplete."""
        depth = start = 0
        while True:
            end = None
            if char not in ('"', "[", "{"):
                # A number that touches the end of the buffer may go on behind it.
                found = _SCALAR.match(self._buffer, self._at)
                if found and (found.end() < len(self._buffer) or self._ended):
                    end = found.end()
            else:
                for token in _TOKEN.finditer(self._buffer, self._at + start):
                    mark = token[0]
                    if mark == '"':
                        # It has not ended yet: to be looked at again.
                        start = token.start() - self._at
                        break
                    depth += (mark in "[{") - (mark in "]}")
                    start = token.end() - self._at
                    if depth == 0:
                        end = token.end()
                        break
            if end is not None:
                text = self._buffer[self._at : end]
                self._at = end
                return text
            if self._ended or len(self._buffer) - self._at > _MAX_VALUE:
                what = "a value of the file does not end" if self._ended else f"a value of more than {_MAX_VALUE:,} characters"
                msg = f"not JSON: {what}"
                raise self.error(msg)
            self._more()


def open_text(path: Path) -> IO[str]:
    """A text file: UTF-8, or UTF-16 where it begins with the mark of it; bytes that are neither become half characters.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            wide = file.read(2) in (b"\xff\xfe", b"\xfe\xff")
        if wide:
            return open(path, encoding="utf-16", errors="replace", newline="")
        return open(path, encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise unreadable(path, error) from None


def _decoded(text: str | bytes, where: str) -> object:
    """The decoder of foreign JSON, as indexes need it: some libraries write NaN and Infinity for "missing"."""
    if isinstance(text, str) and not encodable(text):
        msg = f"{where}: not UTF-8"
        raise SourceError(msg)
    return decode_json(text, where, SourceError, max_bytes=_MAX_VALUE, on_constant=lambda _: None)


def json_records(path: Path, member: str | None = None) -> Iterator[tuple[Place, str, object]]:
    """Elements of a JSON file, one in memory at a time.

    Args:
        path: an array, an object (its values are the elements), or JSON lines (by the name `.jsonl`).
        member: the file is an object, and the array lies under this key.

    Yields:
        (place, key, element); the key is "" but for the values of an object. The element is a `Refusal` where it cannot be used
        and the file goes on behind it; `Place.attempt` hands it on.

    Raises:
        SourceError: the file cannot be read, is not JSON, or not of this shape; names the line.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _lines(path)
        return
    reader = _JsonReader(path)
    try:
        if member is not None:
            _skip_to(reader, member)
        yield from _elements(reader)
        if member is None and (rest := reader.peek()):
            msg = f"not JSON: {shown(rest)} after the end (JSON lines have the name .jsonl)"
            raise reader.error(msg)
    finally:
        reader.close()


def _lines(path: Path) -> Iterator[tuple[Place, str, object]]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise unreadable(path, error) from None
    with file:
        for number, (where, line) in enumerate(json_lines(file, path, SourceError, max_bytes=_MAX_VALUE)):
            place = Place(f"{path}[{number}]", int(where.rpartition(":")[2]))
            try:
                yield place, "", _decoded(line, place.file)
            except SourceError as error:
                yield place, "", Refusal(place.file, place.line, str(error).removeprefix(f"{place.file}: "))


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
        yield place, key, reader.value(place.file)
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
        reader.value(str(reader.path))
        if reader.take(",", "}") == "}":
            break
    msg = f"{reader.path}: key {member!r} is missing"
    raise SourceError(msg)


def _key(reader: _JsonReader) -> str:
    if reader.peek() != '"':
        reader.take('"')
    key = reader.value(str(reader.path))
    if not isinstance(key, str):
        msg = f"not JSON: a key that is {key.reason if isinstance(key, Refusal) else shown(key)}"
        raise reader.error(msg)
    reader.take(":")
    return key


def small_json(path: Path) -> dict[str, object]:
    """The object of one small file.

    Raises:
        RefusedError: it cannot be read, has more than a mebibyte, is not JSON, or is no object.
    """
    try:
        value = decode_json(read_capped(path, _MAX_SMALL, SourceError), path.name, SourceError, on_constant=lambda _: None)
    except (SourceError, MissingFileError) as error:
        msg = str(error).removeprefix(f"{path.parent}/")
        raise RefusedError(msg) from None
    return as_object(value, path.name)


class _Lines:
    """The rows of a table, each from one line, or from several where a quoted field goes over them."""

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self.text = ""
        """Of the last row."""
        self._file = file
        self._waiting: list[str] = []
        self._number = 0

    def _next(self) -> str:
        self._number += 1
        if self._waiting:
            return self._waiting.pop()
        line = self._file.readline(_MAX_LINE + 1)
        if len(line) > _MAX_LINE:
            msg = f"{self.path}:{self._number}: not a table: a line of more than {_MAX_LINE:,} characters"
            raise SourceError(msg)
        return line

    def row(self, delimiter: str, *, quotes: bool) -> tuple[Place, list[str] | Refusal] | None:
        """The next row that is not blank; None at the end."""
        while first := self._next():
            place = Place(str(self.path), self._number)
            cells = self._cells(first, place, delimiter, quotes)
            if isinstance(cells, Refusal) or any(cells):
                return place, cells
        return None

    def _cells(self, first: str, place: Place, delimiter: str, quotes: bool) -> list[str] | Refusal:
        self.text = first
        more: list[str] = []
        size, odd, reason = len(first), first.count('"') % 2, ""
        while True:
            if not more or not odd:
                self.text = "".join([first, *more])
                try:
                    cells = split_row(self.text, delimiter, quotes=quotes)
                    return cells if encodable(self.text) else Refusal(place.file, place.line, "not UTF-8")
                except csv.Error as error:
                    reason = str(error)
            # What begins with a quote that never ends is one row: those behind it are read again, each on its own.
            line = self._next() if odd and len(more) < _MAX_ROW_LINES and size < _MAX_LINE else ""
            if not line:
                self._waiting += reversed(more)
                assert place.line is not None
                self._number = place.line
                return Refusal(place.file, place.line, f"not a row of a table: {reason}")
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
    path: Path, required: tuple[str, ...], *, delimiter: Literal[",", "\t"] = ",", names: tuple[str, ...] | None = None
) -> Iterator[tuple[Place, dict[str, str] | Refusal]]:
    """Rows of a CSV or a tab-separated table.

    Args:
        path: UTF-8, or UTF-16 with its mark.
        required: columns that must be there; others may.
        delimiter: "," (quotes as in CSV; a header with tabs or semicolons in their place says that the rows have them too) or a tab
            (quotes mean nothing).
        names: of the columns, where the file has no header.

    Yields:
        (place, values by column) or (place, a refusal: another number of fields, a quote that does not end, not UTF-8). Names of
        columns are lower case, without brackets around them; blank lines are skipped.

    Raises:
        SourceError: the file cannot be read, a required column is missing, a column stands there twice, or a line is too long.
    """
    quotes = delimiter == ","
    separator: str = delimiter
    columns = names
    with open_text(path) as file:
        lines = _Lines(path, file)
        while (read := lines.row(separator, quotes=quotes)) is not None:
            place, row = read
            if columns is None:
                separator, columns = _columns(path, place, lines.text, required, separator)
            elif isinstance(row, Refusal):
                yield place, row
            elif len(row) != len(columns):
                yield place, Refusal(place.file, place.line, f"wrong number of fields: {len(row)}, expected {len(columns)}")
            else:
                yield place, dict(zip(columns, row, strict=True))
    if columns is None:
        msg = f"{path}: empty; expected a header with {', '.join(required)}"
        raise SourceError(msg)


def unreadable(path: Path, error: OSError) -> SourceError:
    """The error for an index that is there but cannot be opened."""
    return SourceError(f"{path}: cannot be read: {error.strerror or error}")


def _columns(path: Path, place: Place, header: str, required: tuple[str, ...], separator: str) -> tuple[str, tuple[str, ...]]:
    """What separates the columns, and their names."""
    found: dict[str, tuple[str, ...]] = {}
    for mark in dict.fromkeys((separator, "\t", ";")):
        try:
            cells = split_row(header, mark, quotes=mark != "\t" or separator != "\t")
        except csv.Error:
            continue
        found[mark] = tuple(name.strip().strip("[]").strip().lower() for name in cells)
        if all(name in found[mark] for name in required):
            if twice := [name for name, times in Counter(found[mark]).items() if times > 1 and name]:
                msg = f"{path}:{place.line}: column {', '.join(twice)[:80]} stands there twice"
                raise SourceError(msg)
            return mark, found[mark]
    columns = found.get(separator, (header,))
    missing = [name for name in required if name not in columns]
    msg = (
        f"{path}:{place.line}: column {', '.join(missing)} is missing; found: {', '.join(name[:40] for name in columns)[:300]}"
    )
    raise SourceError(msg)


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
    found = as_number(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        # Of a table, where everything is text.
        found = float(value)
    # `not (low <= x <= high)` and nothing shorter: it catches NaN as well.
    if found is None or not low <= found <= high:
        msg = f"{key} is out of range: {'missing' if value is None else shown(value)}, expected {low:g} to {high:g}"
        raise RefusedError(msg)
    return found
