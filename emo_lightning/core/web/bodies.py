"""Bodies of answers, read with limits: what a server sends is counted before it is kept, and what it compressed before it is expanded.

Eight megabytes of gzip hold eight gigabytes of zeros, and an endless body holds whatever a machine has. Every download of this package
(paid replies, files of batches, images of the web and of endpoints) asks for `identity` and reads through `BodyReader`.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import Protocol, cast

IDENTITY_ENCODING = {"Accept-Encoding": "identity"}
"""Of every request: what is not compressed cannot expand."""
MAX_EXPANDED_BYTES = 8 * 2**20
"""Bytes that any compressed body may expand to."""
_PIECE = 2**16
"""Bytes that are expanded at a time."""
_CODINGS = 2
"""Codings one on the other, at most."""


class BodyError(Exception):
    """A signal to who reads: the body is larger than allowed, or its compression cannot be read."""


class BodyTooLargeError(BodyError):
    """The body is larger than allowed, as sent or as expanded."""


@dataclass(frozen=True)
class BodyLimit:
    """How much of a body is read."""

    most: int
    """Bytes, as sent and as expanded."""
    ratio: float = 2.0
    """A compressed body may expand to `MAX_EXPANDED_BYTES`, and to so many times its own size where that is more."""

    def expanded(self, received: int) -> int:
        """Bytes that a compressed body of this size may expand to."""
        return min(self.most, max(MAX_EXPANDED_BYTES, int(self.ratio * received)))


class _Expander(Protocol):
    """One coding."""

    def pieces(self, data: bytes, most: int) -> bytes:
        """What comes of more input, at most one byte more than `most`."""
        ...


async def read_body(chunks: AsyncIterable[bytes], coding: str | None, limit: BodyLimit) -> bytes:
    """A whole body, expanded.

    Args:
        chunks: as they arrive, compressed as they are.
        coding: the header Content-Encoding.
        limit: how much is read.

    Raises:
        BodyError: it is larger, or its compression is damaged or unknown.
    """
    reader = BodyReader(coding, limit)
    async for chunk in chunks:
        reader.feed(chunk)
    return bytes(reader.body)


class BodyReader:
    """Takes a body in parts.

    Args:
        coding: the header Content-Encoding.
        limit: how much is read.

    Raises:
        BodyError: a coding that is not known here.
    """

    def __init__(self, coding: str | None, limit: BodyLimit) -> None:
        names = [name.strip().lower() for name in (coding or "").split(",")]
        names = [name for name in names if name not in ("", "identity")]
        if len(names) > _CODINGS:
            msg = f"compressed {len(names)} times"
            raise BodyError(msg)
        # The last one was applied last.
        self._expanders = [_expander(name) for name in reversed(names)]
        self._limit, self._received, self._expanded = limit, 0, 0
        self.body = bytearray()
        """Expanded, as far as it has arrived; who takes it out by parts may clear it."""

    def feed(self, chunk: bytes) -> None:
        """Take more of it.

        Raises:
            BodyError: too much, or damaged.
        """
        self._received += len(chunk)
        if self._received > self._limit.most:
            msg = f"larger than {self._limit.most:,} bytes"
            raise BodyTooLargeError(msg)
        if not self._expanders:
            self.body += chunk
            return
        most = self._limit.expanded(self._received)
        for expander in self._expanders:
            room = most - self._expanded
            chunk = expander.pieces(chunk, room)
            if len(chunk) > room:
                msg = f"expands to more than {most:,} bytes"
                raise BodyTooLargeError(msg)
        self._expanded += len(chunk)
        self.body += chunk


class _Zlib:
    """gzip (several members one after the other, too) and deflate."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._inner = zlib.decompressobj(bits)

    def pieces(self, data: bytes, most: int) -> bytes:
        out = bytearray()
        while data and len(out) <= most:
            if self._inner.eof:
                self._inner = zlib.decompressobj(self._bits)
            try:
                out += self._inner.decompress(data, min(_PIECE, most + 1 - len(out)))
            except zlib.error as error:
                msg = f"its compression is damaged: {error}"
                raise BodyError(msg) from None
            data = self._inner.unconsumed_tail or self._inner.unused_data
        return bytes(out)


class _Plain:
    """Not compressed, whatever was said."""

    def pieces(self, data: bytes, most: int) -> bytes:
        return data[: most + 1]


class _Gzip:
    """As it is called; a proxy that has expanded a body may have left the name of the coding there."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Expander | None = None

    def pieces(self, data: bytes, most: int) -> bytes:
        if self._inner is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            self._inner = _Zlib(zlib.MAX_WBITS | 16) if self._head.startswith(b"\x1f\x8b") else _Plain()
            data = self._head
        return self._inner.pieces(data, most)


class _Deflate:
    """With the header that the standard wants, or bare, as some servers mean it."""

    def __init__(self) -> None:
        self._head = b""
        self._inner: _Zlib | None = None

    def pieces(self, data: bytes, most: int) -> bytes:
        if self._inner is None:
            self._head += data
            if len(self._head) < 2:
                return b""
            with_header = self._head[0] & 15 == zlib.DEFLATED and int.from_bytes(self._head[:2]) % 31 == 0
            self._inner = _Zlib(zlib.MAX_WBITS if with_header else -zlib.MAX_WBITS)
            data = self._head
        return self._inner.pieces(data, most)


class _LimitedBrotli(Protocol):
    """`brotli.Decompressor` from 1.2 on."""

    def process(self, data: bytes, output_buffer_limit: int) -> bytes: ...

    def can_accept_more_data(self) -> bool: ...


class _Brotli:
    """Only where a package is installed that can be told when to stop."""

    def __init__(self) -> None:
        try:
            package = importlib.import_module("brotli")
            self._inner = cast("_LimitedBrotli", package.Decompressor())
            self._inner.process(b"", output_buffer_limit=1)
            self._error: type[Exception] = package.error
        except (ImportError, AttributeError, TypeError):
            msg = "compressed with br, which was not asked for"
            raise BodyError(msg) from None

    def pieces(self, data: bytes, most: int) -> bytes:
        out = bytearray()
        try:
            out += self._inner.process(data, output_buffer_limit=min(_PIECE, most + 1))
            while len(out) <= most and not self._inner.can_accept_more_data():
                out += self._inner.process(b"", output_buffer_limit=min(_PIECE, most + 1 - len(out)))
        except self._error as error:
            msg = f"its compression is damaged: {error}"
            raise BodyError(msg) from None
        return bytes(out)


def _expander(name: str) -> _Expander:
    match name:
        case "gzip" | "x-gzip":
            return _Gzip()
        case "deflate":
            return _Deflate()
        case "br":
            return _Brotli()
        case _:
            msg = f"compressed with {name[:40]!r}, which was not asked for"
            raise BodyError(msg)
