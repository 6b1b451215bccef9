"""Errors that a user can act on, as one line; anything else with its traceback."""

from __future__ import annotations

import errno
import os
import re
import sys
import traceback


class UserError(Exception):
    """What the user can mend: the command line prints it as one line. Everything else is a bug, and keeps its traceback.

    The message names the file, line or key, what was found, and what is allowed.
    """


class InputError(UserError, ValueError):
    """A value, a key or the content of a file that cannot be used."""


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named, or that a stage needs, is not there."""


_NAMED_ERRORS = {
    "StageFailed": "",
    # Of Lightning: the Trainer was asked for what this machine or strategy cannot do.
    "MisconfigurationException": "",
    # Of wandb: no key; no network; a key that is refused.
    "UsageError": "",
    "CommError": "W&B does not answer (WANDB_MODE=offline keeps the run on disk, for `wandb sync`): ",
    "AuthenticationError": "",
}
"""Errors known by name, as their packages are not imported here, with what to put before their message."""
_USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def explain_error(error: BaseException, prefix: str = "") -> int:
    """Print what the user can act on as one line, anything else with its traceback; returns the exit code."""
    kind = type(error).__name__
    full = _no_room(error)
    known = isinstance(error, _USER_ERRORS) or kind in _NAMED_ERRORS or full is not None
    if not known or os.environ.get("EMO_TRACEBACK"):
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, FileNotFoundError) and error.filename and error.strerror:
        message = f"{error.filename}: no such file"
    if full is not None:
        message = f"cannot write: {full}; make room, then run the same command again"
    elif known and message.startswith("Caught ") and "in DataLoader worker process" in message:
        # PyTorch sends the worker's whole traceback as the message; its last line is "module.Error: what our error said".
        message = message.strip().splitlines()[-1].partition(": ")[2]
    message = _NAMED_ERRORS.get(kind, "") + " ".join(message.split())
    print(f"error: {prefix}{message}", file=sys.stderr)
    return 2 if known else 1


def _no_room(error: BaseException | None) -> str | None:
    """What the system says where a file could not be written for want of room (or permission to grow), else None."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors reports the system's number in its text alone.
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(match[1])
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            where = getattr(error, "filename", None)
            return os.strerror(number) + (f" ({where})" if where else "")
        error = error.__cause__ or error.__context__
    return None
