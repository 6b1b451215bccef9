"""What the commands share: parsers with an example and `--debug`, and output files that are tried before a model is loaded."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence, Set
from pathlib import Path

from emo_lightning.core.errors import InputError, add_debug_option

DEFAULT_MODEL = "runs/demo/model"
"""Folder with `emo.json` that the demo makes."""


def new_parser(name: str, text: str, examples: str, usage: str | None = None) -> argparse.ArgumentParser:
    """The parser of `emo NAME`.

    Args:
        name: of the command.
        text: what it does.
        examples: below its arguments.
        usage: instead of the one that argparse makes.
    """
    parser = argparse.ArgumentParser(f"emo {name}", usage, text, examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_debug_option(parser)
    return parser


def check_at_least(option: str, value: int | None, least: int = 1) -> None:
    """Refuse a number that is too small; None is an option that was not given.

    Raises:
        InputError: names the option.
    """
    if value is not None and value < least:
        msg = f"{option} {value}: expected at least {least}"
        raise InputError(msg)


def check_output_file(out: Path, option: str = "--out") -> None:
    """Make the folder of a file that is to be written, and try it: before the minutes that a model takes.

    Args:
        out: the file.
        option: its name on the command line, for the message.

    Raises:
        InputError: it is a folder, or nothing can be written beside it.
    """
    if out.is_dir():
        msg = f"{option} {out}: is a folder; expected a file"
        raise InputError(msg)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        msg = f"{option} {out}: nothing can be written in {out.parent}: {error.strerror}"
        raise InputError(msg) from None


def given_options(parser: argparse.ArgumentParser, argv: Sequence[str]) -> set[str]:
    """Names of the arguments that stand on a command line, whatever their values.

    Args:
        parser: a fresh one, which is changed.
        argv: that it has accepted before.
    """
    for action in parser._actions:
        action.default = argparse.SUPPRESS
    return set(vars(parser.parse_args(argv)))


def refuse_options(given: Set[str], names: Sequence[str], why: str) -> None:
    """Refuse options that would be taken and not used.

    Args:
        given: names that stand on the command line.
        names: those that mean nothing here.
        why: ends the message.

    Raises:
        InputError: names the first.
    """
    for name in names:
        if name in given:
            msg = f"--{name.replace('_', '-')} {why}"
            raise InputError(msg)
