"""Room on a disk, asked for before anything large is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from emo_lightning.core.errors import InputError

SPARE_BYTES = 256 << 20
"""Bytes that stay free: for checkpoints and logs of whatever else runs."""


def free_bytes(folder: Path) -> int:
    """What is free where a folder is, or would be."""
    folder = folder.expanduser().absolute()
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def require_room(folder: Path, needed: int, instead: str) -> None:
    """Refuse to begin what will not find its place.

    Args:
        folder: where it is to be written.
        needed: bytes.
        instead: what to do.

    Raises:
        InputError: says what is needed, what is free, and what to do.
    """
    if needed + SPARE_BYTES > (free := free_bytes(folder)):
        msg = f"{folder}: {gigabytes(needed)} are needed, {gigabytes(free)} are free on its disk ({gigabytes(SPARE_BYTES)} are left alone); {instead}"
        raise InputError(msg)


def gigabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"
