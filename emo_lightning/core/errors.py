"""A user's mistake and a bug of ours are two things, and a command shows them in two ways.

What the user can mend is a `UserError`, or comes from the system or from another library in a form that `user_message` knows: it is
printed as one line, and the exit code is 2. Everything else is a bug: it keeps its traceback, is followed by a line that says how to
report it, and the exit code is 1. `--debug` and `EMO_DEBUG=1` show the traceback of both.

`run_guarded` is the one place where a command's exceptions end: `emo`, `emo prep` and the process of a stage call it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.endings import InterruptedBySignal
from emo_lightning.core.terminal import say
from emo_lightning.core.text import plain

if TYPE_CHECKING:
    import argparse

DEBUG_VARIABLE = "EMO_DEBUG"
"""Environment variable: any value but an empty one or 0 shows tracebacks of user errors too."""
DEBUG_HELP = "also show the traceback of an error that you can mend (as EMO_DEBUG=1)"


class UserError(Exception):
    """What the user can mend: the command line prints it as one line. Everything else is a bug, and keeps its traceback.

    The message names the file, line or key, what was found, and what is allowed.
    """

    exit_code = 2
    """Of the command that it ends."""


class InputError(UserError, ValueError):
    """A value, a key or the content of a file that cannot be used."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or that a stage needs, is not there."""


def check_count(name: str, value: int) -> None:
    """Refuse a count below 1.

    Raises:
        InputError: names the argument.
    """
    if value < 1:
        msg = f"{name}={value}; expected a whole number, at least 1"
        raise InputError(msg)


BROKEN_PIPE_EXIT = 141
"""Exit code where the reader of our output has gone: that of a program which SIGPIPE ends, 128 + 13."""
BUDGET_REACHED_EXIT = 3
"""Exit code of a command that its budget stopped."""
LEFT_EXIT = 4
"""Exit code of a command that came to its end but must leave something that it pays for to another run."""

_LIBRARY_ERRORS = {
    # The Trainer was asked for what this machine or strategy cannot do.
    ("lightning", "MisconfigurationException"): "",
    # No key; no network; a key that is refused.
    ("wandb", "UsageError"): "",
    ("wandb", "CommError"): "W&B does not answer (WANDB_MODE=offline keeps the run on disk, for `wandb sync`): ",
    ("wandb", "AuthenticationError"): "",
    # Its own process, not its server.
    ("wandb", "MailboxClosedError"): "W&B's own process is gone; the same command goes on: ",
    ("wandb", "HandleAbandonedError"): "W&B's own process is gone; the same command goes on: ",
    ("torch", "OutOfMemoryError"): "the GPU has too little memory for this; a smaller batch needs less: ",
}
"""(package, class) of errors of other libraries that the user can mend, with what to put before their message.

By name, as their packages are not imported here.
"""
_PEER_LOST = re.compile(r"gloo/transport\S*\] .*(onnection (reset|closed)|Broken pipe|Timed out|timed out)", re.DOTALL)
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_UNREADABLE = (errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETXTBSY)
"""What the system says of a disk or a mount that fails; reading from an open file names no path."""
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)
_WRONG_PATH = (
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EBUSY,
)
"""What the system says of a path that is missing, forbidden, or of the wrong kind."""


def run_guarded(body: Callable[[], int], command: Sequence[str], prefix: str = "") -> int:
    """Run a command, explain whatever it raises, and return the exit code.

    Args:
        body: the command; returns its exit code.
        command: the words as typed, for a bug's report.
        prefix: before the message, e.g. the stage.

    Returns:
        What `body` returns; 2 for what the user can mend, 1 for a bug, 130 where it was interrupted (143 by SIGTERM), 141 where nobody reads what it
        says any more.
    """
    try:
        return _written(body)
    except KeyboardInterrupt as end:
        say("\ninterrupted; the same command goes on from what is finished", file=sys.stderr)
        return end.exit_code if isinstance(end, InterruptedBySignal) else 130
    except Exception as error:
        return print_error(error, command, prefix)


def _written(body: Callable[[], int]) -> int:
    """What it returns, once its output is written: later Python could but say that it ignores an exception."""
    try:
        return body()
    finally:
        if sys.exc_info()[0] in (None, SystemExit) and sys.stdout is not None:
            sys.stdout.flush()


def print_error(error: BaseException, command: Sequence[str], prefix: str = "") -> int:
    """Print an error as `run_guarded` does; returns the exit code.

    Args:
        error: caught.
        command: the words as typed.
        prefix: before the message.
    """
    try:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            # `emo … | head`: no error of ours, but not done either.
            return BROKEN_PIPE_EXIT
        return _explain(error, command, prefix)
    except BrokenPipeError:
        # `emo … 2>&1 | head`: nor can an error be told.
        return BROKEN_PIPE_EXIT
    finally:
        _give_up_what_cannot_be_written()


def _explain(error: BaseException, command: Sequence[str], prefix: str) -> int:
    message = user_message(error)
    if message is None or debugging():
        say("".join(traceback.format_exception(error)), end="", file=sys.stderr)
    if message is not None:
        say(f"error: {prefix}{message}", file=sys.stderr)
        return error.exit_code if isinstance(error, UserError) else 2
    say(
        f"error: {prefix}this is a bug in emo-lightning, not a mistake of yours: please report it to its maintainers with the traceback "
        f"above, the version ({_versions()}) and the command: {shlex.join(command)}",
        file=sys.stderr,
    )
    return 1


def debugging() -> bool:
    """Whether every error is to show its traceback."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


@contextlib.contextmanager
def debug_option(words: Sequence[str]) -> Iterator[list[str]]:
    """The command line without `--debug`, wherever it stands; EMO_DEBUG is set inside, so that child processes have it as well."""
    rest = [word for word in words if word != "--debug"]
    if len(rest) == len(words):
        yield rest
        return
    before = os.environ.get(DEBUG_VARIABLE)
    os.environ[DEBUG_VARIABLE] = "1"
    try:
        yield rest
    finally:
        if before is None:
            del os.environ[DEBUG_VARIABLE]
        else:
            os.environ[DEBUG_VARIABLE] = before


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    """Name `--debug` in a command's help; `debug_option` has taken it away before the command reads its arguments."""
    import argparse

    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=DEBUG_HELP)


def user_message(error: BaseException) -> str | None:
    """What to tell the user on one line, or None if the error is a bug of ours.

    The user can mend a `UserError`; a disk that is full or read-only, and too many open files, wherever they come from; what the system
    says of a path by name (missing, forbidden, of the wrong kind); the errors of `_LIBRARY_ERRORS`; and a ValueError that Lightning
    itself raises, which is about the Trainer's settings. An error that a DataLoader's worker or a spawned process has raised counts as
    what it was there.
    """
    error = _as_raised_in_worker(error)
    message = str(error) if isinstance(error, UserError) else _of_the_system(error) or _of_a_library(error)
    return None if message is None else plain(message)


def _of_a_library(error: BaseException) -> str | None:
    # Gloo's and NCCL's words for a connection that a rank has left.
    if isinstance(error, RuntimeError) and (_PEER_LOST.search(str(error)) or type(error).__name__ == "DistBackendError"):
        return f"another rank of this training has ended, or cannot be reached: {' '.join(str(error).split())[:200]}"
    # A ModuleNotFoundError is its word for an accelerator or logger whose package is not installed.
    if isinstance(error, ValueError | ModuleNotFoundError) and raised_in(error, "lightning"):
        return str(error)
    names = [(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__]
    return next((f"{_LIBRARY_ERRORS[name]}{error}" for name in names if name in _LIBRARY_ERRORS), None)


def _of_the_system(error: BaseException) -> str | None:
    """What the operating system has refused."""
    if isinstance(error, OSError) and error.strerror and error.errno in _WRONG_PATH and error.filename is not None:
        what = "no such file" if error.errno == errno.ENOENT else error.strerror.lower()
        other = "" if error.filename2 is None else f" -> {_text(error.filename2)}"
        return f"{_text(error.filename)}{other}: {what}"
    at: BaseException | None = error
    while at is not None:
        number = at.errno if isinstance(at, OSError) else None
        # safetensors reports the system's number in its text alone.
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(at))):
            number = int(match[1])
        if number in _DISK_FULL:
            where = f" ({_text(at.filename)})" if isinstance(at, OSError) and at.filename is not None else ""
            mend = "choose another folder" if number == errno.EROFS else "make room, then run the same command again"
            return f"cannot write: {os.strerror(number)}{where}; {mend}"
        if number in _TOO_MANY_FILES:
            return f"{os.strerror(number)}: raise the limit (`ulimit -n`), or use fewer workers"
        if number in _UNREADABLE:
            where = f"{_text(at.filename)}: " if isinstance(at, OSError) and at.filename is not None else ""
            return f"{where}{os.strerror(number).lower()}: a disk, mount or device that a path names does not answer as a file does"
        at = at.__cause__ or at.__context__
    return None


def raised_in(error: BaseException, *packages: str) -> bool:
    """Whether one of the packages itself has raised the error, and not something that it has called."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return at is not None and str(at.tb_frame.f_globals.get("__name__")).partition(".")[0] in packages


def _text(path: object) -> str:
    return os.fsdecode(path) if isinstance(path, bytes | str | os.PathLike) else str(path)


def _as_raised_in_worker(error: BaseException) -> BaseException:
    """The error of a DataLoader's worker, or of a spawned process, as it was there.

    PyTorch sends the whole traceback as the message: of an error of the same class if one can be made of a message alone, else of
    another. Its first line that is not indented is "module.Class: message".
    """
    text = str(error)
    found = re.search(r"(?:Original |following error:\s*)Traceback \(most recent call last\):\n", text)
    if found is None:
        return error
    # What led to the error stands before it, in a traceback of its own.
    last = text[found.start() :].rpartition("Traceback (most recent call last):\n")[2]
    lines = last.splitlines()
    start = next((n for n, line in enumerate(lines) if line and not line.startswith(" ")), None)
    if start is None:
        return error
    name, _, message = "\n".join(lines[start:]).partition(": ")
    kind = _class_named(name) or type(error)
    if system := re.fullmatch(r"\[Errno (\d+)\] ([^:]*)(?:: '(.*)')?", message.strip(), re.DOTALL):
        return OSError(int(system[1]), system[2], system[3])
    # Not by its constructor, which may take other arguments.
    original = kind.__new__(kind, message)
    original.args = (message,)
    return original


def _class_named(name: str) -> type[BaseException] | None:
    """An exception's class, as a traceback names it, of a module that is loaded here."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module or "builtins"), attribute, None)
    return found if isinstance(found, type) and issubclass(found, BaseException) else None


def _give_up_what_cannot_be_written() -> None:
    """Empty the buffers of output whose reader or disk has gone, so that Python does not try again as it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    return False


def _versions() -> str:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("emo-lightning")
    except PackageNotFoundError:
        own = f"at {Path(__file__).parents[2]}"
    return f"emo-lightning {own}, Python {platform.python_version()}, {platform.system()}"
