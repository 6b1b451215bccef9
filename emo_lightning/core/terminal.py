"""The one way to a terminal: `say`, `say_json` and `core.console`, through which outside text cannot steer it.

A terminal obeys what it is shown: an escape in an image's name moves, hides or rewrites what stands there. `print` and rich's own
console are refused by the linter (T20, TID251), so that nobody has to think of `printable` at every place. `speak_to_any_terminal`,
at the start of every process of ours, does the same for log lines and warnings of all libraries, and for terminals that are not of
Unicode.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from typing import TextIO

from emo_lightning.core.text import printable, printable_json

__all__ = ["json_text", "on_a_terminal", "say", "say_json", "speak_to_any_terminal"]


def say(*values: object, end: str = "\n", file: TextIO | None = None, flush: bool = False) -> None:
    r"""As `print`, with control, escape and bidirectional characters shown as `\x1b`, `\u202e`.

    Args:
        values: texts, set apart by a blank.
        end: after them.
        file: standard output where it is None.
        flush: whether a reader at a pipe gets it now.
    """
    print(printable(" ".join(map(str, values))), end=end, file=file, flush=flush)


def say_json(value: object, indent: int | None = None) -> None:
    """Print JSON for programs, which stays JSON on every terminal.

    Raises:
        ValueError: a NaN or an infinity, which other JSON readers refuse.
    """
    print(json_text(value, indent))  # noqa: T201 - escaped as JSON escapes


def json_text(value: object, indent: int | None = None) -> str:
    """JSON that a terminal can be shown: what it would obey, or cannot write, is escaped as JSON escapes it.

    Raises:
        ValueError: a NaN or an infinity.
    """
    return printable_json(json.dumps(value, ensure_ascii=not _speaks_unicode(sys.stdout), indent=indent, allow_nan=False))


def _speaks_unicode(stream: TextIO) -> bool:
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "").startswith("utf")


def on_a_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end; None is a stream that was closed before we began (`>&-`)."""
    return stream is not None and not stream.closed and stream.isatty()


def speak_to_any_terminal() -> None:
    """Have what a terminal or pipe cannot show written as an escape of its number, instead of ending the command at a dash.

    Latin-1 and ASCII lack most of Unicode; UTF-8 lacks halves of characters, as in names of files that are none of UTF-8. Messages of
    loggers and warnings, ours and those of libraries, are made printable too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if logging.getLogRecordFactory() is logging.LogRecord:
        logging.setLogRecordFactory(_PrintableRecord)
    # Not the format, which Lightning makes its own; and not where somebody collects warnings.
    plain = getattr(getattr(warnings, "_showwarnmsg_impl", None), "__module__", None) == "warnings"
    if plain and warnings.showwarning.__module__ == "warnings":
        warnings.showwarning = _show_printable


class _PrintableRecord(logging.LogRecord):
    """A line of a log; what it names comes from files and servers."""

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """The message, printable."""
        return printable(super().getMessage())


def _show_printable(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As Python's own `warnings.showwarning`."""
    say(warnings.formatwarning(message, category, filename, lineno, line), end="", file=file or sys.stderr)
