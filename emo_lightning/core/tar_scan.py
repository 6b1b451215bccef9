"""Strict scan of a tar's headers: every member with its byte offset, or an error that names the byte.

`tarfile` and webdataset stop without a word at the first header that does not parse and so lose the rest of a shard.
Here anything but a whole archive (ustar, GNU long names, PAX; ended by two zero blocks) is an error.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import NamedTuple

from emo_lightning.core.errors import InputError
from emo_lightning.core.stores import ByteStore
from emo_lightning.core.text import printable

TAR_BLOCK_BYTES = 512
_ZEROS = bytes(TAR_BLOCK_BYTES)
_READ_AHEAD = 1 << 20
_LONGEST_EXTENSION = 1 << 20
"""Bytes of one extended header: a path has 4,096 at most."""
_LONGEST_PATH = 4096
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd", b"PK": "zip"}


class ShardError(InputError):
    """A shard cannot be trusted; the message names the file, the byte or member, and what was found."""


class Member(NamedTuple):
    """One regular file of an archive."""

    name: str
    header: int
    """Offset of its (first) header in bytes."""
    offset: int
    """Offset of its data in bytes."""
    size: int
    """Length of its data in bytes."""


def scan_tar(store: ByteStore, name: str) -> Iterator[Member]:
    """Regular members in order; folders are passed over.

    Args:
        store: the archive's bytes.
        name: of the archive, for messages.

    Raises:
        ShardError: empty, compressed, no tar, truncated, a corrupted header, a link or sparse member, no end-of-archive
            blocks, or anything but zeros after them.
    """
    if store.size == 0:
        msg = f"{name}: the file is empty (0 bytes); expected a tar archive"
        raise ShardError(msg)
    position, started = 0, 0
    once: dict[str, str] = {}  # for the next member alone: PAX records or a GNU long name
    always: dict[str, str] = {}  # PAX global records
    while (block := _read(store, name, position, TAR_BLOCK_BYTES, "a header or the end-of-archive blocks")) != _ZEROS:
        info = _parse_header(block, name, position)
        started = started if once else position
        extension = info.type in _EXTENSIONS
        size = info.size if extension else _size(once.get("size") or always.get("size"), info.size, name, position)
        data = position + TAR_BLOCK_BYTES
        end = data + -(-size // TAR_BLOCK_BYTES) * TAR_BLOCK_BYTES
        if end > store.size:
            msg = f"{name}: byte {position}: truncated: member {info.name!r} needs {end} bytes, the file has {store.size}"
            raise ShardError(msg)
        if extension:
            if size > _LONGEST_EXTENSION:
                msg = f"{name}: byte {position}: an extended header of {size} bytes; at most {_LONGEST_EXTENSION}"
                raise ShardError(msg)
            body = _read(store, name, data, size, "an extended header")
            if info.type == tarfile.GNUTYPE_LONGNAME:
                once["path"] = _text(body.rstrip(b"\0"), name, data)
            else:
                (always if info.type == tarfile.XGLTYPE else once).update(_pax_records(body, name, data))
        else:
            path = once.get("path") or always.get("path") or info.name
            if fault := _name_fault(path):
                msg = f"{name}: byte {position}: member {path[:80]!r} {fault}"
                raise ShardError(msg)
            if info.type in _REGULAR and "GNU.sparse.major" not in once:
                yield Member(path, started, data, size)
            elif info.type != tarfile.DIRTYPE:
                msg = f"{name}: byte {position}: member {path!r} is of type {info.type!r}; allowed: regular files"
                raise ShardError(msg)
            once = {}
        position = end
    if once:
        msg = f"{name}: byte {position}: the archive ends between an extended header and its member"
        raise ShardError(msg)
    _check_end(store, name, position)


def _read(store: ByteStore, name: str, offset: int, length: int, what: str) -> bytes:
    data = store.read(offset, length)
    if len(data) != length:
        msg = f"{name}: byte {offset}: truncated: expected {length} bytes of {what}, found {len(data)}"
        raise ShardError(msg)
    return data


def _parse_header(block: bytes, name: str, position: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError) as error:
        if position == 0:
            kind = _COMPRESSED.get(block[:2])
            found = f"looks like {kind}: unpack it first" if kind else f"begins with {block[:16]!r}"
            msg = f"{name}: byte 0: not a tar archive, or its first header is corrupted ({error}); {found}"
            raise ShardError(msg) from None
        msg = f"{name}: byte {position}: corrupted tar header ({error}); found {block[:32]!r}"
        raise ShardError(msg) from None
    if info.size < 0:
        msg = f"{name}: byte {position}: corrupted tar header (size {info.size}) of {info.name!r}"
        raise ShardError(msg)
    return info


def _check_end(store: ByteStore, name: str, position: int) -> None:
    """Two zero blocks at least, and nothing but zeros until the file ends."""
    if _read(store, name, position, 2 * TAR_BLOCK_BYTES, "end-of-archive blocks") != bytes(2 * TAR_BLOCK_BYTES):
        msg = f"{name}: byte {position + TAR_BLOCK_BYTES}: data after a single zero block; expected the archive's end"
        raise ShardError(msg)
    position += 2 * TAR_BLOCK_BYTES
    while position < store.size:
        chunk = _read(store, name, position, min(_READ_AHEAD, store.size - position), "padding")
        if chunk.count(0) != len(chunk):
            first = position + len(chunk) - len(chunk.lstrip(b"\0"))
            msg = f"{name}: byte {first}: garbage after the end of the archive ({store.size - first} bytes)"
            raise ShardError(msg)
        position += len(chunk)


def _pax_records(data: bytes, name: str, offset: int) -> dict[str, str]:
    r"""Records `LENGTH KEY=VALUE\n`, LENGTH counting itself (POSIX.1-2001 pax)."""
    records: dict[str, str] = {}
    position = 0
    while position < len(data):
        # No header of 1 MiB has a record whose length takes more digits.
        blank = data.find(b" ", position, position + 10)
        digits = data[position:blank] if blank > position else b""
        length = int(digits) if digits.isdigit() else 0
        record = data[blank + 1 : position + length]
        if length <= len(digits) or not record.endswith(b"\n") or b"=" not in record or position + length > len(data):
            msg = f"{name}: byte {offset + position}: corrupted PAX header; found {data[position : position + 32]!r}"
            raise ShardError(msg)
        key, _, value = record[:-1].partition(b"=")
        if key in (b"path", b"size", b"GNU.sparse.major"):  # nothing else changes what we read
            records[key.decode()] = _text(value, name, offset + position)
        position += length
    return records


def _name_fault(path: str) -> str | None:
    """Why a member's name is not one: it says where on a machine it goes, or holds what no name does."""
    if len(path) > _LONGEST_PATH:
        return f"has a name of {len(path)} characters; at most {_LONGEST_PATH}"
    parts = path.removeprefix("./").rstrip("/").split("/")
    if path.startswith("/") or ".." in parts:
        return "leads out of the archive; expected a name without '..' and without a leading '/'"
    # Blanks and dots are checked where a sample's key is made of it; `..` inside a part is no step.
    active = printable(path) != path or "\n" in path or "\t" in path
    return "holds a control, bidirectional or undecodable character" if active else None


def _text(data: bytes, name: str, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        msg = f"{name}: byte {offset}: a member's name is not UTF-8; found {data[:32]!r}"
        raise ShardError(msg) from None


def _size(pax: str | None, size: int, name: str, offset: int) -> int:
    """A PAX record may override the header's size (files above 8 GiB)."""
    if pax is None:
        return size
    if not (pax.isascii() and pax.isdigit() and len(pax) < 20):
        msg = f"{name}: byte {offset}: corrupted PAX header: size {pax[:40]!r} is not a number of fewer than 20 digits"
        raise ShardError(msg)
    return int(pax)
