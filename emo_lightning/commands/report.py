"""`emo report`: one self-contained HTML page of one or several runs, and its tables as Markdown, LaTeX and CSV."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import ALWAYS, Parser, Whole, output_path
from emo_lightning.core.terminal import say

EXAMPLES = """examples:
  emo report runs/demo
  emo report runs/demo --out demo.html --wandb
  emo report runs/monday runs/tuesday        (one page, tables side by side)
"""


ABOUT = """\
Write one HTML page about one or several finished runs, which needs no other file, and every table on it as Markdown, LaTeX and CSV."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("report", ABOUT, EXAMPLES)
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directory, runs/NAME; several are set side by side"
    )
    parser.add_argument(
        "--out",
        type=output_path,
        metavar="FILE.html",
        help="where to write; tables go to FILE_tables/ (default: RUN/report.html, or report-A-B.html beside the first of several)",
    )
    parser.add_argument(
        "--samples",
        type=Whole(),
        default=4,
        metavar="N",
        help="show so many images with right answers, and so many with wrong ones (default: 4)",
    )
    parser.add_argument(
        "--wandb", action="store_true", help="also log tables, images and an artifact to W&B (offline unless WANDB_MODE=online)"
    )
    parser.add_argument("--project", metavar="NAME", help="W&B project (default: WANDB_PROJECT, else emo-lightning)")
    parser.modes({ALWAYS: ("out", "samples", "wandb"), "W&B (--wandb)": ("project",)})
    return parser


def main(argv: list[str]) -> int:
    """Run `emo report`."""
    args = (options := parser()).parse_args(argv)
    options.refuse_unused(argv, *(["W&B (--wandb)"] if args.wandb else []))
    if args.out and args.out.suffix.lower() not in (".html", ".htm"):
        msg = f"--out {args.out}: expected a file that ends in .html; tables go beside it"
        raise InputError(msg)
    from emo_lightning.report.build import build_report, default_out

    report = build_report(args.runs, args.out or default_out(args.runs), args.samples)
    say(report.html)
    say(f"{report.tables_dir}: {len(report.tables)} tables, each as .md, .tex and .csv")
    if report.notes:
        say(f"{len(report.notes)} notes on what is missing or was skipped stand on the page")
    if args.wandb:
        from emo_lightning.report.wandb import log_report

        say(f"W&B: {log_report(report, report.html.parent, args.project)}")
    return 0
