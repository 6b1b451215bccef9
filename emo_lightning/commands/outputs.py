"""Whether a command can write where it was told to, asked before the minutes that a model takes."""

from __future__ import annotations

import tempfile
from pathlib import Path


def check_output_file(out: Path, option: str = "--out") -> None:
    """Make the folder of a file that is to be written, and try it.

    Args:
        out: the file.
        option: its name on the command line, for the message.

    Raises:
        ValueError: it is a folder, or nothing can be written beside it.
    """
    if out.is_dir():
        msg = f"{option} {out}: is a folder; expected a file"
        raise ValueError(msg)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        msg = f"{option} {out}: nothing can be written in {out.parent}: {error.strerror}"
        raise ValueError(msg) from None
