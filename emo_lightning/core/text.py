"""Text that others wrote, put where it can do nothing: a terminal, Markdown, CSV, a file's name.

HTML is escaped by the templates (`report/html.py`), LaTeX by `core/tables/latex.py`; both begin with `plain`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable

__all__ = ["SMALL_WORDS", "csv_cell", "markdown_text", "name_fault", "plain", "printable", "printable_json", "suggested"]

_ACTIVE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 and C1 controls but for tab and line feed: ESC, BEL, CSI, carriage return, …
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks, embeddings, overrides and isolates that turn the direction of writing
    "\u2028\u2029\ufeff\ufff9-\ufffb"  # separators of lines that no terminal shows, byte-order mark, annotations
    "\ud800-\udfff"  # halves of characters, which no terminal can encode
    "\U000e0000-\U000e007f"  # tags: invisible
)
_UNPRINTABLE = re.compile(f"[{_ACTIVE}]")
_IN_A_NAME = re.compile(rf"[{_ACTIVE}\t\n/\\]|\.\.|^\.$|^~|^\s|\s$")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d[\d.,]*|\.\d+|inf|nan)([eE][+-]?\d+)?( ?%)?$")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~!&$])")


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: object) -> str:
    r"""The text as a terminal or a log may show it: characters that move, colour, hide or turn what stands there become `\x1b`, `\u202e`.

    Tab and line feed stay, as do the joiners of emoji and of Indic and Persian script.
    """
    return _UNPRINTABLE.sub(_escape, str(text))


def printable_json(text: str) -> str:
    """As `printable`, of a text that is JSON, with the escapes of JSON."""
    return _UNPRINTABLE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def plain(text: object) -> str:
    """As `printable`, in one line."""
    return " ".join(printable(text).split())


def shown(text: object) -> str:
    """What was found, short enough for a message."""
    return repr(text if isinstance(text, str) else str(text))[:160]


def suggested(wrong: str, names: Iterable[str], above: str = "") -> str:
    """What is allowed in the place of a wrong name, with what is near it: `did you mean A? allowed: A, B`.

    Args:
        wrong: the name.
        names: that are allowed.
        above: what stands before each, and is right.
    """
    names = list(names)
    near = [above + name for name in difflib.get_close_matches(wrong, names, 3)]
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{guess}allowed: {', '.join(above + name for name in names) or 'none'}"


def markdown_text(text: object) -> str:
    """The text in one line, without anything that Markdown or the HTML inside it reads as its own."""
    escaped = _MARKDOWN.sub(r"\\\1", plain(text)).replace("\\<", "&lt;").replace("\\&", "&amp;")
    # What opens a list, or underlines a heading, at the start of a line.
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", re.sub(r"^([-+=])", r"\\\1", escaped))


def csv_cell(text: str) -> str:
    """The text as a spreadsheet may open it: what it would take for a formula gets an apostrophe in front; numbers stay numbers."""
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.match(text) else text


def name_fault(name: str) -> str | None:
    """Why a text cannot name a file or a part of one (an id, a split, a source), or None where it can.

    It holds no separator of folders, no `..`, no control or bidirectional character, no outer blank, and at most 200 bytes.
    """
    if not name:
        return "is empty"
    if found := _IN_A_NAME.search(name):
        return f"holds {found[0]!r}; a name has no path, no '..', no outer blank and no control character"
    # Halves of characters have been found above.
    if (length := len(name.encode())) > 200:
        return f"has {length} bytes; at most 200"
    return None


SMALL_WORDS = frozenset(
    ("a", "an", "and", "at", "by", "for", "from", "in", "into", "is", "its", "of", "on", "or", "the", "to", "with")
)
"""Words that say nothing by themselves."""
