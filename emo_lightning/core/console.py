"""rich's console, for tables and bars: it styles and moves, and the texts it is given do not."""

from __future__ import annotations

from collections.abc import Iterable

import rich.console
from rich.segment import Segment

from emo_lightning.core.text import printable


class Console(rich.console.Console):  # noqa: TID251 - the one
    """As rich's, but escapes in a text are shown and not obeyed; rich itself lets them through."""

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """What rich writes for something: its own control codes as they are, every text printable."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(printable(text), style)
