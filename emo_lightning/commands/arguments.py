"""What the commands share: parsers with an example and `--debug`, and output files that are tried before a model is loaded."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from emo_lightning.core.errors import InputError, add_debug_option
from emo_lightning.core.options import Parser

DEFAULT_MODEL = "runs/demo/model"
"""Folder of the emotion model that the demo makes."""
ANSWERS_STORE = Path("runs/answers")
"""Folder of what was paid for at endpoints, so that it is not paid for again."""


def new_parser(name: str, text: str, examples: str, usage: str | None = None) -> Parser:
    """The parser of `emo NAME`.

    Args:
        name: of the command.
        text: what it does.
        examples: below its arguments.
        usage: instead of the one that argparse makes.
    """
    parser = Parser(f"emo {name}", usage, text, examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_debug_option(parser)
    return parser


def add_verb(verbs: argparse._SubParsersAction[Parser], command: str, short: str, text: str, examples: str) -> Parser:
    """A part of a command that has arguments of its own.

    Args:
        verbs: of the command's parser.
        command: its two words, as `index build`.
        short: one line, for the help of the whole command.
        text: description.
        examples: of the whole command, one a line; those of this part are shown.
    """
    own = [line for line in examples.splitlines() if f"emo {command} " in line]
    verb = verbs.add_parser(
        command.split()[1],
        help=short,
        description=text,
        epilog="\n".join(["examples:", *own]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug_option(verb)
    return verb


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


def add_images_and_model(parser: argparse.ArgumentParser) -> None:
    """The images that an emotion model is given, and the model."""
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGES",
        help="image files, folders, globs, addresses, tars, or .parquet with a column path",
    )
    add_model(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """An emotion model."""
    parser.add_argument(
        "--model",
        type=Path,
        default=Path(DEFAULT_MODEL),
        help=f"folder of an emotion model (of emo export, or of a model stage), or its hub id (default: {DEFAULT_MODEL})",
    )
