"""rich's console, for tables and bars: it styles and moves, and the texts it is given do not."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

from emo_lightning.core.text import printable

_WIDEST = 10_000
"""Characters of a terminal's line that are believed."""


class Console(rich.console.Console):  # noqa: TID251 - the one
    """As rich's, but escapes in a text are shown and not obeyed, and COLUMNS and LINES may hold anything."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - those of rich
        # rich takes 0 for a width, in which nothing is shown, fails at ², and fills a line of a billion blanks.
        sizes = {name: size for name in ("COLUMNS", "LINES") if _is_size(size := os.environ.get(name, ""))}
        super().__init__(_environ={**os.environ, **dict.fromkeys(("COLUMNS", "LINES"), ""), **sizes}, **settings)

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What rich writes for something: its own control codes as they are, every text printable."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:10]) <= _WIDEST


console = Console(highlight=False)
"""Where runs and sweeps say how far they are."""
