"""What the HTML pages share: the templates' environment, and how a table's cells and headings are set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emo_lightning.core.tables.provenance import source_lines
from emo_lightning.core.tables.table import MISSING, Cell, Spread, Table, cell_text, with_minus


def environment() -> Environment:
    """Templates of this package, that escape all text and refuse unknown names."""
    found = Environment(
        loader=PackageLoader(__name__.rpartition(".")[0]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        cell=_cell, heading=_heading, pixels=_pixels, seconds=seconds, day=_day, commit=_commit, source_lines=source_lines
    )
    found.tests["scalar"] = lambda value: not isinstance(value, dict | list)
    return found


def seconds(value: object) -> str:
    """`1 h 02 min`, `1 min 11 s` or `3.2 s`."""
    if not isinstance(value, int | float):
        return MISSING
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{value:.1f} s"


def _cell(cell: Cell, digits: int) -> Markup:
    """A number, with its interval or deviation smaller beside it."""
    match cell:
        case Spread(value=float() | int()):
            number, _, about = cell_text(cell, digits).partition(" ")
            return Markup('{} <span class="about">{}</span>').format(with_minus(number), with_minus(about))
        case _ if cell_text(cell, digits) == MISSING:
            return Markup('<span class="none" title="not computed">{}</span>').format(MISSING)
        case _:
            text = with_minus(cell_text(cell, digits))
            return Markup.escape(_tied(text) if isinstance(cell, str) else text)


def _tied(text: str) -> str:
    """An arrow stays on the line of the word before it."""
    return re.sub(r" (?=[↑↓])", "\u00a0", text)


def _heading(text: str) -> str:
    """`2-D` and `Stress-1` do not break."""
    return re.sub(r"(?<=\d)-(?=[A-Z])|(?<=\w)-(?=\d\b)", "\u2011", _tied(text))


def _pixels(table: Table) -> int:
    """The width that a table wants on the page, about; no more than the page is wide."""
    # Grey columns are shown when asked for.
    shown = [(m, column.title) for m, column in enumerate(table.columns) if not column.quiet]
    wanted = [_width(title, [row[m] for row in table.rows], table.digits) for m, title in shown]
    return min(1100, max(240, 70 + sum(wanted)))


def _width(title: str, cells: Sequence[Cell], digits: int) -> int:
    """Pixels of a column: a heading breaks between words, an interval stands below its number, a long text breaks."""
    texts = [cell_text(cell, digits) for cell in cells]
    about = [text.partition(" ")[2] for cell, text in zip(cells, texts, strict=True) if isinstance(cell, Spread)]
    plain = [text.partition(" ")[0] if isinstance(cell, Spread) else text for cell, text in zip(cells, texts, strict=True)]
    # Widths of a character in the page's three sizes; a sentence gets space for more than a word a line.
    head, body, small = (
        6.6 * max(map(len, title.split()), default=0),
        7.5 * max(map(len, plain), default=0),
        6.2 * max(map(len, about), default=0),
    )
    return round(max(head, min(body, 180 if body < 900 else 360), small)) + 16


def _commit(value: object) -> str:
    """The first digits of a hash; what `git describe` says of a commit, whose hash is at its end, whole."""
    text = str(value or MISSING)
    return text[:16] if re.fullmatch(r"[0-9a-f]{16,}", text) else text


def _day(value: object) -> str:
    """`2026-11-22 22:15` of an ISO time; what cannot be read stays as it is."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(value)
