"""Files that others wrote: missing, endless, or not what their name says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from emo_lightning.core.errors import InputError, MissingFileError, UserError

MAX_LINE_BYTES = 16 << 20
"""Of one line, record, reply or settings file; a record with a hundred masks has less than 1 MiB."""
MAX_PIXELS = 100_000_000
"""Of a picture, a record or a mask: above any camera of today; a small file that claims more is a decompression bomb."""


def open_binary(path: str | Path, error: type[UserError] = InputError) -> BinaryIO:
    """A file opened to be read, which the caller closes.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise MissingFileError(msg) from None
    except OSError as failure:
        msg = f"{path}: cannot be read: {failure.strerror or failure}"
        raise error(msg) from failure


_LFS = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(beginning: bytes, path: str | Path, error: type[UserError]) -> None:
    """Refuse what Git LFS leaves in the place of a file that it has not fetched.

    Args:
        beginning: of the file, 64 bytes or more.
        path: of it.
        error: what is raised.
    """
    if beginning.startswith(_LFS):
        msg = f"{path}: a Git LFS pointer, not the file that it stands for; fetch that one (`git lfs pull`)"
        raise error(msg)


def read_capped(path: str | Path, max_bytes: int = MAX_LINE_BYTES, error: type[UserError] = InputError) -> bytes:
    """A whole file of at most `max_bytes`; a longer one (or a device that never ends) is refused after that many.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read, or is too long.
    """
    with open_binary(path, error) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as failure:
            msg = f"{path}: cannot be read: {failure.strerror or failure}"
            raise error(msg) from failure
    refuse_pointer(data, path, error)
    if len(data) > max_bytes:
        msg = f"{path}: longer than {max_bytes:,} bytes, which is the most that a file of this kind may have"
        raise error(msg)
    return data


def json_lines(
    file: BinaryIO, name: object, error: type[UserError] = InputError, *, max_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[str, bytes]]:
    """The lines of an open file that are not blank, each with its place `NAME:NUMBER`.

    Raises:
        UserError: of the type `error`: a line is longer than `max_bytes`, or the file cannot be read.
    """
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(max_bytes + 1)
        except OSError as failure:
            msg = f"{name}:{number}: cannot be read: {failure.strerror or failure}"
            raise error(msg) from None
        if not line:
            return
        if len(line) > max_bytes:
            msg = f"{name}:{number}: a line of more than {max_bytes:,} bytes"
            raise error(msg)
        if line.strip():
            yield f"{name}:{number}", line
