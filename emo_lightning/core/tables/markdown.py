"""A table as Markdown, to paste."""

from __future__ import annotations

import re
from collections.abc import Iterable

from emo_lightning.core.tables.provenance import source_texts
from emo_lightning.core.tables.table import Table, cell_text
from emo_lightning.core.text import plain


def markdown(table: Table) -> str:
    """A GitHub table with its title, note and sources; the best numbers bold."""
    lines = [f"### {escaped(table.title)}", "", *markdown_rows(table)]
    lines += ["", escaped(table.remark_without_grey), ""] if table.remark_without_grey else [""]
    return "\n".join([*lines, *(f"- source: {escaped(text)}" for text in source_texts(table.sources)), ""])


def markdown_rows(table: Table) -> list[str]:
    """The lines of the GitHub table alone, for a document that has words of its own around it."""
    head = table.headings
    sides = ["---" if m == 0 or m in table.words else "---:" for m in range(len(head))]
    lines = [_line(map(escaped, head)), _line(sides)]
    for n, row in enumerate(table.rows):
        cells = [escaped(cell_text(cell, table.digits)) for cell in row]
        lines.append(_line(f"**{c}**" if (n, m) in table.best else c for m, c in enumerate(cells)))
    return lines


def escaped(text: str) -> str:
    """The text in one line, without a character that Markdown reads as its own."""
    text = plain(text)
    for char in "\\`*_|<>[]~$":
        text = text.replace(char, "\\" + char)
    return re.sub(r"&(?=#?\w+;)", "&amp;", text)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
