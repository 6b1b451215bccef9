"""The report's tables: one form for Table 5, Table 6, any stage's own, and several runs side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from emo_lightning.report.page import Cell, Page, PageTable, Spread, cell_text
from emo_lightning.report.provenance import Provenance

_NANO = {
    "nano_dollars": "US dollars",
    "cost_nano": "cost, US dollars",
    "nano_dollars_per_valid_record": "US dollars per valid record",
}
"""Keys of amounts that are counted in whole nano-dollars, and what the reader is shown."""

_NUMBER = re.compile(r"[+\-−]?[\d.,]+( ?%)?$")


@dataclass
class ReportTable(PageTable):
    """A table with what the report adds to it."""

    name: str = ""
    """Of its files; unique within a report (`with_unique_names`)."""
    sources: list[Provenance] = field(default_factory=list)
    best: set[tuple[int, int]] = field(default_factory=set)
    """(row, column) of the best arm of each row or column."""
    quiet: set[int] = field(default_factory=set)
    """Columns in grey."""
    quiet_note: str = ""
    """What they are, as a sentence that begins small."""
    groups: list[tuple[str, int]] = field(default_factory=list)
    """Titles over neighbouring columns and how many each spans; empty, or as many columns as there are."""
    arms_across: bool = False
    """Whether arms are columns, as in Table 5; else they are rows."""
    shade: dict[tuple[int, int], float] = field(default_factory=dict)
    """(row, column) -> 0 to 1, how dark."""
    folded: bool = False
    """Whether the page shows it only when asked."""

    @property
    def remark(self) -> str:
        """Everything that stands below the table on the page."""
        return self._with(f"Grey: {self.quiet_note}")

    @property
    def remark_without_grey(self) -> str:
        """The same for files, which have no grey: the columns by their names."""
        return self._with(f"{', '.join(self.columns[m] for m in sorted(self.quiet))}: {self.quiet_note}")

    def _with(self, about_quiet: str) -> str:
        return " ".join(text for text in (self.note, about_quiet if self.quiet_note else "") if text)

    @property
    def words(self) -> set[int]:
        """Columns of words, set flush left; the first always is."""
        return {m for m in range(1, len(self.columns)) if _is_words([row[m] for row in self.rows])}

    @property
    def width(self) -> int:
        """Pixels that it wants on the page, about; no more than the page is wide."""
        return min(
            1100,
            max(
                240,
                70 + sum(_width(column, [row[m] for row in self.rows], self.digits) for m, column in enumerate(self.columns)),
            ),
        )


def page_tables(stage: str, page: Page, source: Provenance) -> list[ReportTable]:
    """The tables of a stage's `page.json`."""
    return [
        ReportTable(
            t.title or page.title,
            t.columns,
            t.rows,
            t.note,
            t.digits,
            name=f"{stage}-{t.title or page.title}",
            sources=[source],
        )
        for t in page.tables
    ]


def plain_tables(stage: str, found: Mapping[str, Any], source: Provenance) -> list[ReportTable]:
    """Any JSON object: its figures in one table, and a table for every part that is an object, with a column for every key of theirs."""
    flat = {
        key: value
        for key, value in found.items()
        if not isinstance(value, Mapping) and not (key == "cost_nano" and "cost_usd" in found)
    }
    parts = {key: value for key, value in found.items() if isinstance(value, Mapping) and value}
    tables = [_pairs(stage, f"{stage}, in all", flat, source)] if flat else []
    for key, part in parts.items():
        if not all(isinstance(inner, Mapping) for inner in part.values()):
            tables.append(_pairs(stage, key, part, source))
            continue
        columns = list(dict.fromkeys(name for inner in part.values() for name in inner))
        rows = [[_words(name), *(_plain(inner.get(column), column) for column in columns)] for name, inner in part.items()]
        tables.append(ReportTable(_title(key), ["", *map(_words, columns)], rows, name=f"{stage}-{key}", sources=[source]))
    return tables


def side_by_side(runs: Sequence[tuple[str, Sequence[ReportTable]]]) -> list[ReportTable]:
    """Tables of the same title in at least two runs, joined; and for each the change from the first of them.

    Args:
        runs: (name, its tables).
    """
    joined = []
    titles = dict.fromkeys((table.title, table.columns[0]) for _, tables in runs for table in tables)
    for title in titles:
        same = [(run, table) for run, tables in runs for table in tables if (table.title, table.columns[0]) == title]
        if len({run for run, _ in same}) < 2:
            continue
        same = [(run if len([r for r, _ in same if r == run]) == 1 else f"{run} · {t.sources[0].stage}", t) for run, t in same]
        joined.append(_across(same) if same[0][1].arms_across else _down(same))
        joined += [c for c in [_change(same)] if c]
    return joined


def with_unique_names(tables: Sequence[ReportTable]) -> list[ReportTable]:
    """The tables with file names of small letters, digits and hyphens, no two alike."""
    taken: set[str] = set()
    named = []
    for table in tables:
        stem = re.sub(r"[^a-z0-9]+", "-", table.name.lower()).strip("-") or "table"
        name, n = stem, 1
        while name in taken:
            n += 1
            name = f"{stem}-{n}"
        taken.add(name)
        named.append(replace(table, name=name))
    return named


def number_of(cell: Cell) -> float | None:
    """The number in a cell, or None."""
    value = cell.value if isinstance(cell, Spread) else cell
    return value if isinstance(value, int | float) else None


def _across(same: Sequence[tuple[str, ReportTable]]) -> ReportTable:
    """Arms as columns, run after run, without the constant answers."""
    first = same[0][1]
    labels = list(dict.fromkeys(str(row[0]) for _, table in same for row in table.rows))
    rows: list[list[Cell]] = [[label] for label in labels]
    columns, groups = [first.columns[0]], [("", 1)]
    for run, table in same:
        kept = [m for m in range(1, len(table.columns)) if m not in table.quiet]
        by_label = {str(row[0]): row for row in table.rows}
        for row, label in zip(rows, labels, strict=True):
            row += [by_label[label][m] if label in by_label else None for m in kept]
        columns += [table.columns[m] for m in kept]
        groups.append((run, len(kept)))
    best = {(n, 1 + m) for n, row in enumerate(rows) for m in best_of(row[1:], str(row[0]).endswith("↓"))}
    return replace(_joined(same, columns, rows), groups=groups, best=best)


def _down(same: Sequence[tuple[str, ReportTable]]) -> ReportTable:
    """Arms as rows, run after run; the run is the second column."""
    first = same[0][1]
    columns = list(dict.fromkeys(c for _, table in same for c in table.columns[1:]))
    rows: list[list[Cell]] = []
    for run, table in same:
        at = {column: m for m, column in enumerate(table.columns)}
        rows += [[row[0], run, *(row[at[c]] if c in at else None for c in columns)] for row in table.rows]
    # The same arm of all runs together.
    order = list(dict.fromkeys(str(row[0]) for row in rows))
    rows.sort(key=lambda row: order.index(str(row[0])))
    return _joined(same, [first.columns[0], "Run", *columns], rows)


def _joined(same: Sequence[tuple[str, ReportTable]], columns: list[str], rows: list[list[Cell]]) -> ReportTable:
    first = same[0][1]
    alike = len({table.note for _, table in same}) == 1
    notes = [first.note] if alike else [f"{run}: {table.note}" for run, table in same if table.note]
    sources = [source for _, table in same for source in table.sources]
    return ReportTable(
        f"{first.title}, side by side",
        columns,
        rows,
        " ".join(notes),
        max(t.digits for _, t in same),
        name=f"compared-{first.title}",
        sources=sources,
        arms_across=first.arms_across,
    )


def _change(same: Sequence[tuple[str, ReportTable]]) -> ReportTable | None:
    """Every number minus the number of the same row and column in the first run; None where nothing changed."""
    (base_run, base), others = same[0], same[1:]
    rows: list[list[Cell]] = []
    columns = [c for m, c in enumerate(base.columns) if m and m not in base.quiet]
    old = {(str(row[0]), c): number_of(row[m]) for row in base.rows for m, c in enumerate(base.columns)}
    for run, table in others:
        at = {column: m for m, column in enumerate(table.columns)}
        for row in table.rows:
            cells: list[Cell] = []
            for column in columns:
                before, now = old.get((str(row[0]), column)), number_of(row[at[column]]) if column in at else None
                cells.append(None if before is None or now is None else f"{now - before:+.{table.digits}f}")
            if any(cell is not None for cell in cells):
                rows.append([row[0], run, *cells])
    if not any(str(cell).strip("+-0.") for row in rows for cell in row[2:] if cell is not None):
        return None
    return ReportTable(
        f"{base.title}, change from {base_run}",
        [base.columns[0], "Run", *columns],
        rows,
        "A difference of two figures, without an interval: whether it is more than chance, `emo eval A --against B` says.",
        base.digits,
        name=f"change-{base.title}",
        sources=[source for _, table in same for source in table.sources],
    )


def best_of(cells: Sequence[Cell], lower: bool = False) -> Iterator[int]:
    """Positions of the best numbers, where there are several to choose from and they differ."""
    values = [number_of(cell) for cell in cells]
    known = [v for v in values if v is not None]
    if len(known) > 1 and min(known) < max(known):
        top = min(known) if lower else max(known)
        yield from (n for n, v in enumerate(values) if v == top)


def _is_words(cells: Sequence[Cell]) -> bool:
    known = [cell for cell in cells if cell is not None]
    return bool(known) and all(isinstance(cell, str) and not _NUMBER.match(cell) for cell in known)


def _width(column: str, cells: Sequence[Cell], digits: int) -> int:
    """Pixels of a column: a heading breaks between words, an interval stands below its figure, a long text breaks."""
    texts = [cell_text(cell, digits) for cell in cells]
    about = [text.partition(" ")[2] for cell, text in zip(cells, texts, strict=True) if isinstance(cell, Spread)]
    plain = [text.partition(" ")[0] if isinstance(cell, Spread) else text for cell, text in zip(cells, texts, strict=True)]
    # Widths of a character in the page's three sizes; a sentence gets room for more than a word a line.
    head, body, small = (
        6.6 * max(map(len, column.split()), default=0),
        7.5 * max(map(len, plain), default=0),
        6.2 * max(map(len, about), default=0),
    )
    return round(max(head, min(body, 180 if body < 900 else 360), small)) + 16


def _pairs(stage: str, key: str, part: Mapping[str, Any], source: Provenance) -> ReportTable:
    rows: list[list[Cell]] = [[_words(name), _plain(value, name)] for name, value in part.items()]
    return ReportTable(_title(key), ["", "value"], rows, name=f"{stage}-{key}", sources=[source])


def _plain(value: Any, key: str = "") -> Cell:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in _NANO and isinstance(value, int):
        return f"{value / 1e9:.4f}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(k)} {_plain(v)}" for k, v in value.items()) or None
    return ", ".join(str(_plain(v)) for v in value) or None


def _words(key: str) -> str:
    return _NANO.get(str(key), str(key).replace("_", " "))


def _title(key: str) -> str:
    words = _words(key)
    return words[:1].upper() + words[1:]
