"""Which bytes a file or a folder holds, so that results of one are never taken for those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def listing(files: Iterable[Path], separator: str = " ") -> bytes:
    """One line a file, of its name and its SHA-256: what a folder's fingerprint is taken of.

    Args:
        files: in the order of the lines.
        separator: between name and hash; it is part of the keys of caches that exist, so no caller may change its own.
    """
    return "".join(f"{file.name}{separator}{file_sha256(file)}\n" for file in files).encode()
