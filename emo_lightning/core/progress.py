"""Progress bars of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def progress_bars(unit: str | None = None, *, stay: bool = True) -> Progress:
    """Progress bars on standard error, so that reports can be piped; none in a log file, where a bar is noise.

    Args:
        unit: of what is counted, for the rate beside the bar; None shows no rate.
        stay: whether the full bar stays on the screen; not where the command ends with a line that says count and rate.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} {unit}/s")

    from emo_lightning.core.console import Console

    console = Console(stderr=True)
    # Older releases of rich end even a bar that is disabled with an empty line.
    shown = console.is_terminal and not console.is_dumb_terminal
    console.quiet = not shown
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    rate = () if unit is None else (Rate(),)
    return Progress(*columns, *rate, console=console, disable=not shown, transient=not stay)
