"""What the commands share on the terminal: parsers with an example, arguments of several commands, the manifest in one line."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.provider.budget import NANO_PER_DOLLAR
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from data_prep.export import Manifest

from emo_lightning.core.errors import add_debug_option
from emo_lightning.core.options import Parser


def new_parser(name: str, text: str, example: str) -> Parser:
    """The parser of `emo prep NAME`, with examples below its help.

    Args:
        name: of the command.
        text: what it does; paragraphs and lists are wrapped to the terminal, a list's lines begin with blanks.
        example: one command, or several lines.
    """
    parser = Parser(
        prog=f"emo prep {name}",
        description=wrapped(text),
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug_option(parser)
    return parser


def wrapped(text: str) -> str:
    """Each line of a text broken at the terminal's width; lines that begin with a blank stay whole."""
    width = max(40, shutil.get_terminal_size().columns - 2)
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, width) for line in text.splitlines())


def add_store_argument(parser: argparse.ArgumentParser) -> None:
    """The store that a command works on."""
    parser.add_argument("store", help="directory of the store, as `emo prep import` made it")


def add_config_argument(parser: argparse.ArgumentParser, default: Path, what: str = "YAML of the pass") -> None:
    """`--config`, with one of the configurations that come with the package as its default."""
    parser.add_argument("--config", default=default, help=f"{what} (default: configs/prep/{default.name} of this package)")


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")


def add_address_arguments(parser: argparse.ArgumentParser) -> None:
    """`--base-url` and `--allow-http`."""
    parser.add_argument(
        "--base-url",
        metavar="URL",
        help="send every request to this endpoint instead of the configured ones, e.g. to that of `emo prep simulate`",
    )
    parser.add_argument(
        "--allow-http",
        action="store_true",
        help="send keys and images unencrypted to endpoints with http:// that are not this machine, as their key `allow_http` does",
    )


def add_budget_argument(parser: argparse.ArgumentParser) -> None:
    """`--budget`."""
    parser.add_argument(
        "--budget",
        metavar="USD",
        help="stop before this store has cost more; all earlier runs count, of every command, and so do calls of unknown outcome",
    )


def say_spent_budget(paid_nano: int, limit_nano: int | None) -> None:
    """Say so where nothing is left of a budget, as it counts all that the store has cost: nothing would be asked without a reason.

    Args:
        paid_nano: nano-dollars that the store has cost.
        limit_nano: of the budget; None where there is none.
    """
    if limit_nano is not None and paid_nano >= limit_nano:
        paid, limit = paid_nano / NANO_PER_DOLLAR, limit_nano / NANO_PER_DOLLAR
        say(
            f"nothing is left of the budget of ${limit:g}: it counts all that this store has cost, ${paid:.6f} so far",
            file=sys.stderr,
        )


def add_resend_argument(parser: argparse.ArgumentParser) -> None:
    """`--resend-unknown`."""
    parser.add_argument(
        "--resend-unknown",
        action="store_true",
        help="send calls of unknown outcome again; the provider may bill them twice",
    )


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """`--engine` and `--ray-address`, for every command that computes or pays."""
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where the work is done: on this machine, or on a Ray cluster (needs the extra `ray`) (default: local)",
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="address of the Ray cluster (default: RAY_ADDRESS; where that is not set, a cluster of this machine alone is started)",
    )
    parser.add_argument(
        "--ray-without-token",
        action="store_true",
        help="use a Ray cluster of others although it wants no token: whoever reaches it can read the API keys that travel through it",
    )


def add_images_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """`--images`."""
    parser.add_argument(
        "--images",
        choices=("jpg", "png", "webp", "keep"),
        help="the type of all images; others are written anew, which the manifest and the card say. `keep` leaves each as it is: a mixture "
        f"opens in `datasets` as a folder, by its card, and no other way (default: {default})",
    )


def print_manifest(out: str, manifest: Manifest) -> None:
    """Shards and images by split, and what was left out."""
    counts = ", ".join(f"{split} {n}" for split, n in manifest["counts"].items())
    say(f"{out}: {len(manifest['shards'])} shards ({counts})")
    shares = manifest["created_from"].get("splits")
    if isinstance(shares, dict) and (
        empty := [split for split, share in shares.items() if share > 0 and split not in manifest["counts"]]
    ):
        say(
            f"no image in {' and '.join(empty)}: sources name their own splits, and few images do not fill a small share "
            "(key `splits` of --config)"
        )
    if changed := manifest["images"]["reencoded"]:
        counts = ", ".join(f"{extension} {n}" for extension, n in changed.items())
        say(f"written anew as {manifest['images']['type']}: {counts} (--images keep leaves each as it is)")
    if manifest["excluded"]:
        say("left out: " + ", ".join(f"{state} {n}" for state, n in manifest["excluded"].items()))
