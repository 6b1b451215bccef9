"""Pictures that a search has found, side by side on one page that asks nothing of the network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emo_lightning.core.colours import EMOTION_COLOURS
from emo_lightning.core.files import write_text
from emo_lightning.report.html import environment


@dataclass(frozen=True)
class Card:
    """One picture."""

    title: str
    """Its id, or the question."""
    emotion: str | None = None
    lines: Sequence[str] = field(default_factory=list)
    """What else is known of it."""
    image: bytes = b""
    """JPEG; empty without one."""
    asked: bool = False
    """Whether it was asked with."""

    @property
    def colour(self) -> str:
        """Of its emotion."""
        return EMOTION_COLOURS.get(self.emotion or "", "#888888")

    @property
    def data(self) -> str:
        """The picture as part of the page; empty without one."""
        return f"data:image/jpeg;base64,{base64.b64encode(self.image).decode()}" if self.image else ""


def write_hits_page(
    out: Path, title: str, notes: Sequence[str], questions: Sequence[Card], cards: Sequence[Card], *, way: bool = False
) -> None:
    """Write the page.

    Args:
        out: the .html file.
        title: what was looked for.
        notes: sentences below it.
        questions: what was asked with, where it stands apart.
        cards: what was found, best first.
        way: whether they are the steps of a way, which stand in one row where there is room.
    """
    page = (
        environment().get_template("hits.html.j2").render(title=title, notes=notes, questions=questions, cards=cards, way=way)
    )
    write_text(out, page)
