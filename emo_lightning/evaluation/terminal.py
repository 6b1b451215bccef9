"""Tables that fit the terminal and lose nothing: words wrap, figures do not, and what is too wide goes on in a second table."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

_FRAME = 3
"""Characters that a column takes beside its text: two of padding and a line; one more line ends the table."""

_PIECES = re.compile(r"\[[^\]]*\]|-?[^\s\-/]+[\-/]?(?: [↑↓])?|\S")
"""What is never broken: an interval in brackets, a number, a word up to its hyphen or slash, and an arrow from its word."""


def fitted(table: Table, width: int) -> list[Table]:
    """The table with columns of fixed width, or several that each repeat its first column and have no caption.

    Rich cuts words and numbers to an ellipsis where a table has more columns than room.

    Args:
        table: of plain strings with markup, drawn with rich's default box.
        width: of the terminal in characters.
    """
    cells = [[_plain(column.header), *map(_plain, column._cells)] for column in table.columns]
    if not cells:
        return [table]
    least = [max((len(piece) for text in own for piece in _pieces(text)), default=1) for own in cells]
    ideal = [max(len(line) for text in own for line in text.split("\n")) for own in cells]
    parts = _parts(least, width)
    return [_part(table, part, _widths(part, least, ideal, width), n, len(parts)) for n, part in enumerate(parts)]


def _parts(least: Sequence[int], width: int) -> list[list[int]]:
    """Numbers of the columns of each table; the first column opens all."""
    parts, room = [[0]], width - 1 - _FRAME - least[0]
    left = room
    for n, wanted in enumerate(least[1:], 1):
        if wanted + _FRAME > left and len(parts[-1]) > 1:
            parts.append([0])
            left = room
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


def _part(table: Table, part: Sequence[int], widths: dict[int, int], number: int, count: int) -> Table:
    title = f"{table.title} ({number + 1} of {count})" if count > 1 and table.title else table.title
    out = Table(title=title, caption=table.caption if count == 1 else None)
    columns: list[Column] = [table.columns[n] for n in part]
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
