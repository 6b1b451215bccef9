"""Requests on their way into a batch: a file in the store, a line each, within the provider's limits."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import IO


class Spool:
    """One file of requests.

    Args:
        folder: made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.token = secrets.token_hex(16)
        self.path = spool_path(folder, self.token)
        self.requests = 0
        self.bytes = 0
        self._file: IO[bytes] = self.path.open("wb")
        self.path.chmod(0o600)

    def add(self, line: bytes) -> None:
        """Append a line."""
        self._file.write(line)
        self.requests += 1
        self.bytes += len(line)

    def close(self) -> None:
        """Flush to disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def spool_path(folder: Path, token: str) -> Path:
    """Where the requests of a batch lie until it has ended."""
    return folder / f"{token}.jsonl"


def results_path(folder: Path, token: str) -> Path:
    """Where a file with results of a batch lies until it is accounted for; the folder is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / f"{token}.results"


def drop_files(folder: Path, token: str) -> None:
    """Nothing more comes of a batch."""
    for path in (spool_path(folder, token), folder / f"{token}.results"):
        path.unlink(missing_ok=True)
