"""What is fed: a reader, and whole inputs from which the mutations start."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Target(NamedTuple):
    """A reader; it may give anything, and raise nothing but a `UserError`."""

    read: Callable[[bytes], object]
    whole: list[bytes]
    one_of: int = 1
    """Gets one of so many inputs: it takes long for each."""


Make = Callable[[Path], Target]
"""Makes a target in an empty folder of its own."""


def as_json(value: object) -> bytes:
    """One line."""
    return json.dumps(value).encode()


def through(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A reader of files, fed with bytes; the file stands at `path`."""

    def run(data: bytes) -> object:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return read(path)

    return run
