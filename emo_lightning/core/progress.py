"""Progress bars of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bars() -> Progress:
    """Progress bars on standard error, so that reports can be piped; none in a log file, where a bar is noise."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from emo_lightning.core.console import Console

    console = Console(stderr=True)
    # Older releases of rich end even a bar that is disabled with an empty line.
    shown = console.is_terminal and not console.is_dumb_terminal
    console.quiet = not shown
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not shown)
