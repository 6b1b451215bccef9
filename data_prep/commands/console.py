"""What the commands share on the terminal: parsers with an example, progress, the manifest in one line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_prep.export import Manifest

from emo_lightning.core.errors import add_debug_option


def new_parser(name: str, text: str, example: str) -> argparse.ArgumentParser:
    """The parser of `emo prep NAME`, with an example below its help."""
    parser = argparse.ArgumentParser(
        prog=f"emo prep {name}",
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_debug_option(parser)
    return parser


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """`--engine` and `--ray-address`, for every command that computes or pays."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="ray: the same steps on a Ray cluster (extra `ray`)"
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="of the cluster; without it RAY_ADDRESS counts, and where that is not set a cluster of this machine alone is started",
    )


def print_manifest(out: str, manifest: Manifest) -> None:
    """Shards and images by split, and what was left out."""
    counts = ", ".join(f"{split} {n}" for split, n in manifest["counts"].items())
    print(f"{out}: {len(manifest['shards'])} shards ({counts})")
    shares = manifest["created_from"].get("splits")
    if isinstance(shares, dict) and (
        empty := [split for split, share in shares.items() if share > 0 and split not in manifest["counts"]]
    ):
        print(
            f"no image in {' and '.join(empty)}: sources name their own splits, and few images do not fill a small share "
            "(key `splits` of --config)"
        )
    if manifest["excluded"]:
        print("left out: " + ", ".join(f"{state} {n}" for state, n in manifest["excluded"].items()))
