"""Where the rows of an index stand, how many of them are bad, and how its file is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from data_prep.sources.base import RefusedError, Repeat, SourceError, SourceRefusal

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R", bound=SourceRefusal)


MAX_BAD_ROWS_AT_FIRST = 10_000
"""Rows of one index that may be bad while they are more than half of what was read."""
MAX_BAD_ROWS = 100_000
"""Rows of one index that may be bad at all."""
MAX_UNUSED_ROWS = 120_000
"""Rows of one index that say nothing new, or whose file is not there, while they are more than half: above a published data set of which few
images were downloaded."""


class RowCount:
    """Rows of one index file, read and bad: an index that is mostly none is refused as a whole, before its millions of rows cost minutes.

    Args:
        index: the file.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        self._read = self._bad = self._without_use = 0
        self._first: dict[str, SourceRefusal] = {}

    def place(self, file: str, line: int | None) -> Place:
        """The place of the next row."""
        self._read += 1
        return Place(file, line, self)

    def bad(self, refusal: SourceRefusal) -> None:
        """Count a row that cannot be used.

        Raises:
            SourceError: they are too many; names the index, how many, and the first of them.
        """
        without_use = isinstance(refusal, Repeat) or refusal.reason.startswith("no such file")
        first = self._first.setdefault("without use" if without_use else "bad", refusal)
        if without_use:
            self._without_use += 1
            many = self._without_use
            over = many > MAX_UNUSED_ROWS and 2 * many > self._read
        else:
            self._bad += 1
            many = self._bad
            over = many > MAX_BAD_ROWS or (many > MAX_BAD_ROWS_AT_FIRST and 2 * many > self._read)
        if over:
            place = f"{first.file}:{first.line}" if first.line else first.file
            msg = (
                f"{self.index}: not read further: {many:,} of its first {self._read:,} rows cannot be used; "
                f"the first of them, {place}: {first.reason}"
            )
            raise SourceError(msg)


@dataclass(frozen=True)
class Place:
    """Where a row stands."""

    file: str
    """Path, with the element's number (from 0) in brackets for JSON and Parquet, where a line may hold everything."""
    line: int | None
    rows: RowCount | None = field(default=None, compare=False, repr=False)
    """Those of the index, where it is one row of many."""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"

    def refuse(self, reason: str) -> SourceRefusal:
        """The refusal at this place.

        Raises:
            SourceError: the index has too many of them.
        """
        return self._counted(SourceRefusal(self.file, self.line, reason))

    def repeat(self, reason: str) -> Repeat:
        """What the row is that says again what an earlier one said; errors as `refuse`."""
        return self._counted(Repeat(self.file, self.line, reason))

    def _counted(self, refusal: R) -> R:
        if self.rows is not None:
            self.rows.bad(refusal)
        return refusal

    def uncounted(self) -> Place:
        """The same place for what is no matter of the index: the images that it names."""
        return Place(self.file, self.line)

    def attempt(self, make: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | SourceRefusal:
        """What `make` makes of the row, or the refusal at this place (or the one that the row already is)."""
        for arg in args:
            if isinstance(arg, SourceRefusal):
                return arg
        try:
            return make(*args, **kwargs)
        except RefusedError as error:
            return self.refuse(str(error))


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
