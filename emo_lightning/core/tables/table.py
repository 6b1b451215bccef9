"""The one table of the project: what a stage measures is built as a `Table`, and every renderer draws it from that alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

from emo_lightning.core.tables.provenance import Provenance

MISSING = "–"
"""What stands where a cell is null."""

_NUMBER = re.compile(r"<?[+\-−]?[\d.,]+( ?%)?$")


@dataclass(frozen=True)
class Spread:
    """A number with its interval, or with its standard deviation."""

    value: float | None
    low: float | None = None
    high: float | None = None
    std: float | None = None

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self:
        """A number with its interval, out of a result that has keys beside `value`, `low` and `high`."""
        return cls(found["value"], found["low"], found["high"])


Cell: TypeAlias = str | int | float | Spread | None

Result: TypeAlias = Mapping[str, Any]
"""What an analysis found, as it stands in a stage's JSON."""
ResultsByArm: TypeAlias = Mapping[str, Result]
"""Arm -> what a measurement returned."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    key: str
    """What programs find it by; stays the same when the title is reworded."""
    title: str
    """What the reader sees."""
    quiet: bool = False
    """Whether it stands in grey: for comparison, and never the best."""
    whole: bool = False
    """Whether its texts stay in one line in the terminal, as names do that are to be copied; the other columns make room."""


def columns(*given: str | tuple[str, str]) -> list[Column]:
    """Columns of titles, which are their own keys, or of (key, title); keys that repeat are numbered."""
    pairs = [(one, one) if isinstance(one, str) else one for one in given]
    return [Column(key, title) for key, (_, title) in zip(numbered([key for key, _ in pairs]), pairs, strict=True)]


@dataclass
class Table:
    """A table; the first column names its rows."""

    key: str
    """What programs find it by, the same in every run and for every wording of the title: `table5-strict`; behind a slash the arm or
    the set that it is of, `stability/ours`."""
    title: str
    columns: list[Column]
    rows: list[list[Cell]]
    note: str = ""
    digits: int = 2
    """Behind the decimal point, of every number that is not whole."""
    row_keys: list[str] = field(default_factory=list)
    """What programs find the rows by, one a row; the texts of the first column where none are given. Those that repeat are numbered."""
    best: set[tuple[int, int]] = field(default_factory=set)
    """(row, column) of the best arm of each row or column."""
    lower_is_better: set[str] = field(default_factory=set)
    """Keys of the rows in which the smallest number is the best."""
    quiet_note: str = ""
    """What the grey columns are, as a sentence that begins small."""
    groups: list[tuple[str, int]] = field(default_factory=list)
    """Titles over neighbouring columns and how many each spans; empty, or as many columns as there are."""
    arms_across: bool = False
    """Whether arms are columns, as in Table 5; else they are rows."""
    shade: dict[tuple[int, int], float] = field(default_factory=dict)
    """(row, column) -> 0 to 1, how dark."""
    folded: bool = False
    """Whether the page shows it only when asked."""
    name: str = ""
    """Of its files (`with_unique_names`); the title where none is given."""
    sources: list[Provenance] = field(default_factory=list)
    """Which stages its numbers come from."""

    def __post_init__(self) -> None:
        self.row_keys = numbered(self.row_keys or [str(row[0]) for row in self.rows])
        self.name = self.name or self.title

    @property
    def column_keys(self) -> list[str]:
        """Keys of the columns."""
        return [column.key for column in self.columns]

    @property
    def headings(self) -> list[str]:
        """Titles of the columns, with the title of their group in front."""
        over = [title for title, span in self.groups for _ in range(span)] or [""] * len(self.columns)
        return [f"{title}: {column.title}" if title else column.title for title, column in zip(over, self.columns, strict=True)]

    @property
    def quiet(self) -> set[int]:
        """Positions of the grey columns."""
        return {m for m, column in enumerate(self.columns) if column.quiet}

    @property
    def words(self) -> set[int]:
        """Positions of the columns of words, set flush left; the first always is."""
        return {m for m in range(1, len(self.columns)) if _is_words([row[m] for row in self.rows])}

    @property
    def remark(self) -> str:
        """Everything that stands below the table where there is grey."""
        return self._with(f"Grey: {self.quiet_note}")

    @property
    def remark_without_grey(self) -> str:
        """The same for files, which have no grey: the columns by their titles."""
        return self._with(f"{', '.join(self.columns[m].title for m in sorted(self.quiet))}: {self.quiet_note}")

    def _with(self, about_quiet: str) -> str:
        return " ".join(text for text in (self.note, about_quiet if self.quiet_note else "") if text)

    def cell(self, row: str, column: str) -> Cell:
        """The cell in the row and the column of these keys.

        Raises:
            KeyError: there is no such row or column; names the table and the keys that there are.
        """
        for what, key, known in (("row", row, self.row_keys), ("column", column, self.column_keys)):
            if key not in known:
                msg = f"table {self.key!r} has no {what} {key!r}; found {', '.join(known)}"
                raise KeyError(msg)
        return self.rows[self.row_keys.index(row)][self.column_keys.index(column)]


def cell_text(cell: Cell, digits: int = 2) -> str:
    """`36.60`, `36.60 [33.10, 40.25]`, `73.74 ± 0.52`, a text as it is, or a dash for null."""
    match cell:
        case None | Spread(value=None):
            return MISSING
        case str():
            return cell
        case int():
            return f"{cell:,}"
        case float():
            return _fixed(cell, digits)
        case Spread(value=value, low=low, high=high, std=std):
            assert value is not None  # The first case has taken it.
            about = f" ± {std:.{digits}f}" if std is not None else ""
            if low is not None and high is not None:
                about += f" [{_fixed(low, digits)}, {_fixed(high, digits)}]"
            return f"{_fixed(value, digits)}{about}"
        case _:
            msg = f"cell {cell!r}; expected a text, a number, Spread or None"
            raise TypeError(msg)


def with_minus(text: str) -> str:
    """A minus sign instead of the hyphen before a number, for readers; programs read the hyphen."""
    return re.sub(r"(?<![\w.'])-(?=[\d.])", "−", text)


def number_of(cell: Cell) -> float | None:
    """The number in a cell, or None."""
    value = cell.value if isinstance(cell, Spread) else cell
    return value if isinstance(value, int | float) else None


def spread(value: float | None, interval: Sequence[float | None] | None) -> Cell:
    """A number with its [low, high], or alone where that is not known."""
    if value is None or not interval or None in interval:
        return value
    return Spread(value, *interval)


def mean_over_seeds(summary: Result) -> Cell:
    """A mean with its standard deviation, or alone where one seed has none."""
    return Spread(summary["mean"], std=summary["std"]) if summary["std"] is not None else summary["mean"]


def p_value(value: float | None) -> str | None:
    """`0.0200`, or `<0.0001`: no test says that something never happens by chance."""
    return None if value is None else "<0.0001" if value < 0.00005 else f"{value:.4f}"


def best_of(cells: Sequence[Cell], lower: bool = False) -> Iterator[int]:
    """Positions of the best numbers, where there are several to choose from and they differ."""
    values = [number_of(cell) for cell in cells]
    known = [v for v in values if v is not None]
    if len(known) > 1 and min(known) < max(known):
        top = min(known) if lower else max(known)
        yield from (n for n, v in enumerate(values) if v == top)


def slug(text: str) -> str:
    """Small letters, digits and hyphens: part of a key or of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def numbered(texts: Sequence[str]) -> list[str]:
    """The texts, no two alike: `p`, `p-2`, `p-3`."""
    taken: set[str] = set()
    unlike = []
    for text in texts:
        name, n = text, 1
        while name in taken:
            n += 1
            name = f"{text}-{n}"
        taken.add(name)
        unlike.append(name)
    return unlike


def with_unique_names(tables: Sequence[Table]) -> list[Table]:
    """The tables with file names of small letters, digits and hyphens, no two alike."""
    names = numbered([slug(table.name) or "table" for table in tables])
    return [replace(table, name=name) for table, name in zip(tables, names, strict=True)]


def of_stage(tables: Sequence[Table], stage: str, source: Provenance) -> list[Table]:
    """The tables with the stage that they come from: in front of their files' names, and as their source."""
    return [replace(table, name=f"{stage}-{table.name}", sources=[source]) for table in tables]


def _fixed(value: float, digits: int) -> str:
    """Never `-0.00`."""
    text = f"{value:.{digits}f}"
    return text if text.strip("-0.") else text.removeprefix("-")


def _is_words(cells: Sequence[Cell]) -> bool:
    known = [cell for cell in cells if cell is not None]
    return bool(known) and all(isinstance(cell, str) and not _NUMBER.match(cell) for cell in known)
