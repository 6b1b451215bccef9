"""Where the rows of an index stand, and how its file is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from data_prep.sources.base import Refusal, RefusedError, SourceError

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


def unreadable(path: Path, error: OSError) -> SourceError:
    """The error for an index that is there but cannot be opened."""
    return SourceError(f"{path}: cannot be read: {error.strerror or error}")
