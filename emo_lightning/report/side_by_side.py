"""The same table of several runs as one, and what changed from the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from emo_lightning.core.tables.table import Cell, Column, Table, best_of, columns, number_of

Runs = Sequence[tuple[str, Table]]
"""(name of the run, its table), all of one key."""


def side_by_side(runs: Sequence[tuple[str, Sequence[Table]]]) -> list[Table]:
    """Tables of the same key in at least two runs, joined; and for each the change from the first of them.

    Args:
        runs: (name, its tables).
    """
    joined = []
    keys = dict.fromkeys((table.key, table.column_keys[0]) for _, tables in runs for table in tables)
    for key in keys:
        same = [(run, table) for run, tables in runs for table in tables if (table.key, table.column_keys[0]) == key]
        if len({run for run, _ in same}) < 2:
            continue
        same = [(run if len([r for r, _ in same if r == run]) == 1 else f"{run} · {t.sources[0].stage}", t) for run, t in same]
        joined.append(_across(same) if same[0][1].arms_across else _down(same))
        joined += [change for change in [_change(same)] if change]
    return joined


def _across(same: Runs) -> Table:
    """Arms as columns, run after run, without the grey ones."""
    first = same[0][1]
    labels = {key: row[0] for _, table in reversed(same) for key, row in zip(table.row_keys, table.rows, strict=True)}
    keys = list(dict.fromkeys(key for _, table in same for key in table.row_keys))
    rows: list[list[Cell]] = [[labels[key]] for key in keys]
    shown, groups = [first.columns[0]], [("", 1)]
    for run, table in same:
        kept = [m for m in range(1, len(table.columns)) if m not in table.quiet]
        by_key = dict(zip(table.row_keys, table.rows, strict=True))
        for row, key in zip(rows, keys, strict=True):
            row += [by_key[key][m] if key in by_key else None for m in kept]
        shown += [table.columns[m] for m in kept]
        groups.append((run, len(kept)))
    lower = {key for _, table in same for key in table.lower_is_better}
    best = {(n, 1 + m) for n, (key, row) in enumerate(zip(keys, rows, strict=True)) for m in best_of(row[1:], key in lower)}
    return replace(_joined(same, shown, rows), row_keys=keys, groups=groups, best=best, lower_is_better=lower)


def _down(same: Runs) -> Table:
    """Arms as rows, run after run; the run is the second column."""
    first = same[0][1]
    shown = list(dict.fromkeys(_plain(column) for _, table in same for column in table.columns[1:]))
    rows: list[list[Cell]] = []
    for run, table in same:
        at = {_plain(column): m for m, column in enumerate(table.columns)}
        rows += [[row[0], run, *(row[at[column]] if column in at else None for column in shown)] for row in table.rows]
    # The same arm of all runs together.
    order = list(dict.fromkeys(str(row[0]) for row in rows))
    rows.sort(key=lambda row: order.index(str(row[0])))
    return _joined(same, [first.columns[0], Column("run", "Run"), *shown], rows)


def _plain(column: Column) -> Column:
    """What makes two columns one: the key; and the title, which may say how many images there are."""
    return Column(column.key, column.title)


def _joined(same: Runs, shown: list[Column], rows: list[list[Cell]]) -> Table:
    first = same[0][1]
    # Where a title says something of the run, like its number of images, each run's stands in the note.
    titles = {table.title for _, table in same}
    said = [(run, table.note if len(titles) == 1 else f"{table.title}. {table.note}".strip()) for run, table in same]
    alike = len({text for _, text in said}) == 1
    notes = [first.note] if alike else [f"{run}: {text}" for run, text in said if text]
    return Table(
        f"compared-{first.key}",
        f"{first.title}, side by side",
        shown,
        rows,
        " ".join(notes),
        max(table.digits for _, table in same),
        arms_across=first.arms_across,
        name=f"compared-{first.title}",
        sources=[source for _, table in same for source in table.sources],
    )


def _change(same: Runs) -> Table | None:
    """Every number minus the number of the same row and column in the first run; None where nothing changed."""
    (base_run, base), others = same[0], same[1:]
    rows: list[list[Cell]] = []
    kept = [_plain(column) for column in base.columns[1:] if not column.quiet]
    # Where the first column does not tell the rows apart, the other words do.
    several = len({str(row[0]) for row in base.rows}) < len(base.rows)
    naming = {_plain(base.columns[m]) for m in base.words} if several else set()
    old = {
        (row_key, _plain(column)): number_of(cell)
        for row_key, row in zip(base.row_keys, base.rows, strict=True)
        for column, cell in zip(base.columns, row, strict=True)
    }
    for run, table in others:
        at = {_plain(column): m for m, column in enumerate(table.columns)}
        for row_key, row in zip(table.row_keys, table.rows, strict=True):
            cells: list[Cell] = []
            for column in kept:
                if column in naming:
                    cells.append(row[at[column]] if column in at else None)
                    continue
                before = old.get((row_key, column))
                now = number_of(row[at[column]]) if column in at else None
                cells.append(None if before is None or now is None else f"{now - before:+.{table.digits}f}")
            rows.append([row[0], run, *cells])
    numbers = [2 + m for m, column in enumerate(kept) if column not in naming]
    rows = [row for row in rows if any(row[m] is not None for m in numbers)]
    if not any(str(row[m]).strip("+-0.") for row in rows for m in numbers if row[m] is not None):
        return None
    return Table(
        f"change-{base.key}",
        f"{base.title}, change from {base_run}",
        [base.columns[0], *columns(("run", "Run")), *kept],
        rows,
        "A difference of two numbers, without an interval: whether it is more than chance, `emo eval A --against B` says.",
        base.digits,
        name=f"change-{base.title}",
        sources=[source for _, table in same for source in table.sources],
    )
