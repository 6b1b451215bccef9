"""Indexes that are JSON: arrays, objects and lines of any size, one element in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import SourceError, SourceRefusal
from data_prep.sources.places import Place, RowCount, open_text, unreadable
from data_prep.sources.tree import encodable
from emo_lightning.core.foreign import RefusedJsonError, json_lines, read_json
from emo_lightning.core.text import shown

_CHUNK = 2**20
_MAX_VALUE = 8 * 2**20
"""Characters of one element: more is taken for a broken file, not held in memory."""
_SCALAR = re.compile(r"[^\s,\[\]{}\":]++")
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[\]{}"]', re.DOTALL)
"""What says where a value ends: whole strings, brackets, and a quote whose string does not end."""


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
        """The next value; a `SourceRefusal` where it has an end but is not JSON that can be used.

        Args:
            where: for the refusal.
        """
        char = self.peek()
        line = self.line
        text = self._text(char)
        self.line += text.count("\n")
        try:
            return _decoded(text)
        except RefusedJsonError as fault:
            if fault.syntax:
                # Where it ends is then a guess.
                msg = f"{self.path}:{line + (fault.line or 1) - 1}: {fault}"
                raise SourceError(msg) from None
            return SourceRefusal(where, line, str(fault))

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


def _decoded(text: str | bytes) -> object:
    """The decoder of foreign JSON, as indexes need it: some libraries write NaN and Infinity for "missing"."""
    if isinstance(text, str) and not encodable(text):
        msg = "not UTF-8"
        raise RefusedJsonError(msg)
    return read_json(text, max_bytes=_MAX_VALUE, on_constant=lambda _: None)


def json_records(path: Path, member: str | None = None) -> Iterator[tuple[Place, str, object]]:
    """Elements of a JSON file, one in memory at a time.

    Args:
        path: an array, an object (its values are the elements), or JSON lines (by the name `.jsonl`).
        member: the file is an object, and the array lies under this key.

    Yields:
        (place, key, element); the key is "" but for the values of an object. The element is a `SourceRefusal` where it cannot be used
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
    rows = RowCount(path)
    with file:
        for number, (where, line) in enumerate(json_lines(file, path, SourceError, max_bytes=_MAX_VALUE)):
            place = rows.place(f"{path}[{number}]", int(where.rpartition(":")[2]))
            try:
                value = _decoded(line)
            except RefusedJsonError as fault:
                value = place.refuse(str(fault))
            yield place, "", value


def _elements(reader: _JsonReader) -> Iterator[tuple[Place, str, object]]:
    opened = reader.take("[", "{")
    closing = "]" if opened == "[" else "}"
    number, rows = 0, RowCount(reader.path)
    if reader.peek() == closing:
        reader.take(closing)
        return
    while True:
        reader.peek()
        place = rows.place(f"{reader.path}[{number}]", reader.line)
        key = _key(reader) if opened == "{" else ""
        value = reader.value(place.file)
        if isinstance(value, SourceRefusal):
            rows.bad(value)
        yield place, key, value
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
        msg = f"not JSON: a key that is {key.reason if isinstance(key, SourceRefusal) else shown(key)}"
        raise reader.error(msg)
    reader.take(":")
    return key
