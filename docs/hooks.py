"""Puts the `--help` of every command at the end of the page about commands, as it is when the site is built."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

PAGE = "reference/commands.md"
WIDTH = "100"


def help_of(main: Callable[[list[str]], int]) -> str:
    """What a command prints of itself."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    printed = io.StringIO()
    try:
        # argparse exits after its help.
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main(["--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return printed.getvalue().strip()


def all_help() -> str:
    """A heading and a text for each command."""
    from data_prep.cli import COMMANDS as PREP_COMMANDS
    from emo_lightning.cli import COMMANDS

    modules = {f"emo {name}": module for name, (module, _) in COMMANDS.items()}
    modules |= {f"emo prep {name}": f"data_prep.commands.{module}" for name, (module, _) in PREP_COMMANDS.items()}
    del modules["emo prep"]
    texts = ((name, help_of(importlib.import_module(module).main)) for name, module in modules.items())
    return "\n".join(f"### {name}\n\n```text\n{text}\n```\n" for name, text in texts)


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Called by mkdocs for each page."""
    return f"{markdown}\n## All arguments\n\n{all_help()}" if page.file.src_uri == PAGE else markdown
