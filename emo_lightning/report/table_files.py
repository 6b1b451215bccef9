"""The report's tables as files: Markdown and LaTeX to paste, CSV to compute with. Each carries what it came from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import atomic_folder, write_text
from emo_lightning.core.tables.files import RENDERERS
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.markdown import escaped, markdown
from emo_lightning.core.tables.table import Table


def write_tables(folder: Path, tables: Sequence[Table], title: str, notes: Sequence[str] = ()) -> Path:
    """Replace `folder` by NAME.md, NAME.tex and NAME.csv of each table, and all of them in `all.md` and `all.tex`.

    Args:
        folder: the report's own; made anew whole, so that no table of an earlier report stays.
        tables: with unique names.
        title: of the report.
        notes: what was missing or skipped; in `all.md`.

    Raises:
        InputError: `folder` holds something that no report writes; nothing is touched then.
    """
    folder = Path(folder)
    foreign = [path.name for path in folder.iterdir() if path.suffix not in RENDERERS] if folder.is_dir() else []
    if foreign or folder.is_file():
        msg = f"{folder}: holds {', '.join(foreign[:3]) or 'no folder'}, which no report writes; choose another --out"
        raise InputError(msg)
    skipped = (
        ["## Warnings, and what is missing or skipped", "", *(f"- {escaped(note)}" for note in notes), ""] if notes else []
    )
    with atomic_folder(folder, replace=True) as fresh:
        for table in tables:
            for suffix, render in RENDERERS.items():
                write_text(fresh / f"{table.name}{suffix}", render(table))
        write_text(fresh / "all.md", "\n".join([f"# {escaped(title)}", "", *skipped, *map(markdown, tables)]))
        write_text(fresh / "all.tex", "\n".join(["% Needs \\usepackage{booktabs,graphicx}", *map(latex, tables)]))
    return folder
