"""What stands between a pair of tags, in time that grows with the text alone.

Replies come from anywhere, and a regular expression of a pair reads a text of opening tags again from each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


def between(text: str, name: str) -> Iterator[str]:
    """What stands between `<name>` and the next `</name>`, pair by pair, in any case and over lines."""
    begin = None
    for tag in re.finditer(rf"<(/?){re.escape(name)}>", text, re.IGNORECASE):
        if not tag[1]:
            begin = tag.end() if begin is None else begin
        elif begin is not None:
            yield text[begin : tag.start()]
            begin = None


def first_in_a_line(text: str, name: str) -> str | None:
    """What stands between the first `<name>` and the next `</name>` that are in one line, in this case; None without such a pair."""
    for line in text.split("\n"):
        _, opened, rest = line.partition(f"<{name}>")
        found, closed, _ = rest.partition(f"</{name}>")
        if opened and closed:
            return found
    return None


def until_the_last_in_a_line(text: str, name: str) -> str | None:
    """What stands in one line from the first `<name>` to the first `</name>` behind which no `<name>` follows; None without them."""
    for line in text.split("\n"):
        opened, closed = line.find(f"<{name}>"), line.find(f"</{name}>", max(line.rfind(f"<{name}>"), 0))
        if opened >= 0 and closed >= 0:
            return line[opened + len(name) + 2 : closed]
    return None
