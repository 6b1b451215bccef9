"""`emo report`: one self-contained HTML page per run."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """examples:
  emo report runs/demo
  emo report runs/demo --out demo.html
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "emo report", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory, runs/NAME")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write, for one run (default: RUN/report.html)")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo report`."""
    args = parser().parse_args(argv)
    if args.out and len(args.runs) > 1:
        raise ValueError(f"--out {args.out} names one file, but {len(args.runs)} runs were given")
    from emo_lightning.evaluation.report import build_report

    for run in args.runs:
        print(build_report(run, args.out or run / "report.html"))
    return 0
