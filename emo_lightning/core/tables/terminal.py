"""Tables in the terminal, which fit it and lose nothing: words wrap, numbers do not, and what is too wide goes on in a second table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal

from rich import table as rich_table
from rich.markup import escape
from rich.text import Text

from emo_lightning.core.console import Console
from emo_lightning.core.tables.table import Table, cell_text
from emo_lightning.core.text import printable

_FRAME = 3
"""Characters that a column takes beside its text: two of padding and a line; one more line ends the table."""

_PIECES = re.compile(r"\[[^\]]*\]|-?[^\s\-/]+[\-/]?(?: [↑↓]| ± \S+)?|\S")
"""What is never broken: an interval in brackets, a number with its deviation, a word up to its hyphen or slash, and an arrow
from its word."""


def show(tables: Iterable[Table], console: Console | None = None, most: int | None = None) -> None:
    """Print tables one under the other; one that is wider than the terminal goes on in another.

    Args:
        tables: in their order.
        console: where to.
        most: characters that are used of a wider terminal; None uses all.
    """
    console = console or Console()
    width = min(console.width, most or console.width)
    for table in tables:
        drawn = drawn_by_rich(table)
        parts = fitted(drawn, width, [n for n, column in enumerate(table.columns) if column.whole])
        for part in parts:
            console.print(part)
        if len(parts) > 1 and drawn.caption:
            console.print(drawn.caption, style="table.caption", highlight=False)


def drawn_by_rich(table: Table) -> rich_table.Table:
    """The table as rich draws it: what the page sets flush left or grey, and everything that stands below."""
    out = rich_table.Table(title=_text(table.title), caption=_text(table.remark) or None)
    for m, (heading, column) in enumerate(zip(table.headings, table.columns, strict=True)):
        side: Literal["left", "right"] = "left" if m == 0 or m in table.words else "right"
        out.add_column(_text(heading), justify=side, style="dim" if column.quiet else "")
    for row in table.rows:
        out.add_row(*(_text(cell_text(cell, table.digits)) for cell in row))
    return out


def _text(text: str) -> str:
    """A text that others may have written: neither rich's markup nor an escape of the terminal."""
    return escape(printable(text))


def fitted(table: rich_table.Table, width: int, whole: Sequence[int] = ()) -> list[rich_table.Table]:
    """The table with columns of fixed width, or several, without a caption, that all begin with the columns that name the rows.

    Rich cuts words and numbers to an ellipsis where a table has more columns than there is width for.

    Args:
        table: of plain strings with markup, drawn with rich's default box.
        width: of the terminal in characters.
        whole: columns whose texts are not broken while they fit in half of it.
    """
    cells = [[_plain(column.header), *map(_plain, column._cells)] for column in table.columns]
    if not cells:
        return [table]
    least = [max((len(piece) for text in own for piece in _pieces(text)), default=1) for own in cells]
    ideal = [max(len(line) for text in own for line in text.split("\n")) for own in cells]
    least = [min(ideal[n], width // 2) if n in whole else one for n, one in enumerate(least)]
    parts = _parts(least, width, _naming([own[1:] for own in cells]))
    return [_part(table, part, _widths(part, least, ideal, width), n, len(parts)) for n, part in enumerate(parts)]


def _naming(cells: Sequence[Sequence[str]]) -> int:
    """How many of the first columns name the rows: as many as tell them apart; 1 where only all of them do."""
    rows = list(zip(*cells, strict=True))
    names = (n for n in range(1, len(cells)) if len({row[:n] for row in rows}) == len(rows))
    return next(names, 1)


def _parts(least: Sequence[int], width: int, naming: int) -> list[list[int]]:
    """Numbers of the columns of each table; the first `naming` open all, or the first alone where those would fill half of it."""
    if sum(least[:naming]) + naming * _FRAME > width // 2:
        naming = 1
    head = list(range(naming))
    space = width - 1 - sum(least[n] + _FRAME for n in head)
    parts, left = [list(head)], space
    for n, wanted in enumerate(least[naming:], naming):
        if wanted + _FRAME > left and len(parts[-1]) > naming:
            parts.append(list(head))
            left = space
        parts[-1].append(n)
        left -= wanted + _FRAME
    return parts


def _widths(part: Sequence[int], least: Sequence[int], ideal: Sequence[int], width: int) -> dict[int, int]:
    """What is left after the least goes, a character at a time, to the column that lacks most."""
    widths = {n: least[n] for n in part}
    for _ in range(width - 1 - sum(w + _FRAME for w in widths.values())):
        n = max(part, key=lambda n: ideal[n] - widths[n])
        if ideal[n] <= widths[n]:
            break
        widths[n] += 1
    return widths


def _part(table: rich_table.Table, part: Sequence[int], widths: dict[int, int], number: int, count: int) -> rich_table.Table:
    title = f"{table.title} ({number + 1} of {count})" if count > 1 and table.title else table.title
    out = rich_table.Table(title=title, caption=table.caption if count == 1 else None)
    columns: list[rich_table.Column] = [table.columns[n] for n in part]
    for n, column in zip(part, columns, strict=True):
        out.add_column(_wrapped(column.header, widths[n]), justify=column.justify, style=column.style, width=widths[n])
    for row in zip(*(column._cells for column in columns), strict=True):
        out.add_row(*(_wrapped(cell, widths[n]) for n, cell in zip(part, row, strict=True)))
    return out


def _plain(cell: object) -> str:
    return Text.from_markup(str(cell)).plain


def _pieces(text: str) -> list[str]:
    return _PIECES.findall(text)


def _wrapped(cell: object, width: int) -> str:
    """The cell with its lines broken between pieces, none longer than `width` unless a piece is."""
    lines = []
    for text in _plain(cell).split("\n"):
        line, end = "", 0
        for piece in _PIECES.finditer(text):
            gap = text[end : piece.start()] if line else ""
            if line and len(line) + len(gap) + len(piece[0]) > width:
                lines.append(line)
                line, gap = "", ""
            line += gap + piece[0]
            end = piece.end()
        lines.append(line)
    return escape("\n".join(lines))
