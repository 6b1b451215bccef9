"""Tables as files: Markdown and LaTeX to paste, CSV to compute with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from emo_lightning.core.files import write_text
from emo_lightning.core.tables.csv import as_csv
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.markdown import escaped, markdown
from emo_lightning.core.tables.table import Table, slug

RENDERERS: dict[str, Callable[[Table], str]] = {".md": markdown, ".tex": latex, ".csv": as_csv}
"""Suffix -> what writes a table in that form."""


def write_beside(folder: Path, name: str, tables: Sequence[Table], notes: Sequence[str] = ()) -> None:
    """Write `name`.md with all tables that have rows, and KEY.tex and KEY.csv of each; other files of the folder stay.

    Args:
        folder: is made where it is not there.
        name: of the Markdown file.
        tables: with keys that differ.
        notes: a line each, below the tables.
    """
    said = [*(f"- {escaped(note)}" for note in notes), ""] if notes else []
    write_text(folder / f"{name}.md", "\n".join([*(markdown(table) for table in tables if table.rows), *said]))
    for table in tables:
        named = replace(table, name=slug(table.key))
        for suffix in (".tex", ".csv"):
            write_text(folder / f"{named.name}{suffix}", RENDERERS[suffix](named))
