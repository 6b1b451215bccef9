"""A stage's page in the terminal: its tables, and what is to be said of them."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.core.tables.terminal import show
from emo_lightning.core.terminal import say, say_json
from emo_lightning.report.page import Page


def show_page(page: Page) -> None:
    """Print a page's tables, and its notes a line each."""
    show(page.tables)
    for note in page.notes:
        say(note)


def show_result(result: Mapping[str, object], page: Page, *, as_json: bool) -> None:
    """Print what a command found: all of it as JSON, or the page's tables and notes."""
    if as_json:
        say_json(result, indent=1)
    else:
        show_page(page)
