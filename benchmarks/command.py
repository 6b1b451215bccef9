"""What all benchmarks share: the options `--quick` and `--json`, the file that they write, and the folder in which peers stand."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path

PEERS = Path(__file__).parent / ".peers"
_INSTALL = "uv pip install --target benchmarks/.peers --no-deps -r benchmarks/requirements-peers.txt"


def command_line(
    doc: str | None, quick: str = "few of everything, one round: that it runs, not how fast"
) -> argparse.ArgumentParser:
    """A parser that has both options.

    Args:
        doc: of the benchmark.
        quick: what `--quick` leaves.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write what was found there")
    return parser


def write_json(path: Path | None, against: str, ratio: float | None, found: Mapping[str, object]) -> None:
    """Write what was found, where a file was asked for.

    Args:
        path: `--json`.
        against: the peer, by name.
        ratio: ours to the peer's; None where no peer was asked for, or none ran.
        found: all else.

    Raises:
        ValueError: the ratio is no finite number: nothing has been compared.
    """
    if ratio is not None and not math.isfinite(ratio):
        msg = f"the ratio to {against} is {ratio}"
        raise ValueError(msg)
    if path is not None:
        path.write_text(json.dumps({"ratio": ratio, "against": against, **found}, indent=1) + "\n", encoding="utf-8")


def find_peers(*names: str) -> None:
    """Let what stands in `benchmarks/.peers` be imported, behind what is installed; ends the program where one of these is in neither.

    Args:
        names: of packages that will be imported.
    """
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    if absent := [name for name in names if importlib.util.find_spec(name) is None]:
        sys.exit(f"error: {', '.join(absent)} is not installed, which this is compared with:\n    {_INSTALL}")
