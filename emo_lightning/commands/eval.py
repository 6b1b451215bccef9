"""`emo eval`: Table 5 of one predictions file, or of two and their difference."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.options import ALWAYS, Parser, Whole
from emo_lightning.core.terminal import say, say_json

EXAMPLES = """examples:
  emo eval runs/demo/predict-base/predictions.jsonl runs/demo/world/reference --mode strict
  emo eval ours.jsonl 'data/*-test-*.tar' --against theirs.jsonl --by-emotion
  emo eval predictions.jsonl 'data/*-test-*.tar' --train 'data/*-train-*.tar' --clip openai/clip-vit-base-patch32 --json
"""


ABOUT = """\
Score a predictions file as Table 5 does, in the paper's way and in a stricter one. With --against compare two files image by image."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("eval", ABOUT, EXAMPLES)
    parser.add_argument(
        "predictions",
        type=Path,
        metavar="PREDICTIONS",
        help="answers by image, as `emo predict` writes them: .jsonl, .parquet or tars",
    )
    parser.add_argument(
        "references",
        nargs="+",
        metavar="REFERENCES",
        help="records as .jsonl or .parquet (id and the labels that are scored are enough), or tars (files, folders, globs); only tars have "
        "images",
    )
    parser.add_argument("--mode", choices=("paper", "strict"), help="score in this way only (default: both)")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="OTHER",
        help="a second predictions file; prints the differences on the same images",
    )
    parser.add_argument(
        "--train", nargs="+", metavar="REFS", help="records from which the baselines are made (default: the references)"
    )
    parser.add_argument("--clip", metavar="MODEL", help="CLIP folder or hub id (default: the CLIP rows are left out)")
    parser.add_argument(
        "--anchors",
        metavar="NAME",
        help="valence and arousal of the eight emotions: ddes or eemo_logic (configs/anchors, which disagree on awe), or a file; by them a model "
        "that gives probabilities alone is compared with people's ratings, where the references have some",
    )
    parser.add_argument("--by-emotion", action="store_true", help="also print the scores by emotion and the confusion matrix")
    parser.add_argument(
        "--resamples",
        type=Whole(0, 1_000_000),
        default=1000,
        metavar="N",
        help="bootstrap resamples for the 95 %% intervals; 0 leaves them out (default: 1000)",
    )
    parser.add_argument(
        "--seed", type=Whole(), default=0, help="random seed of the bootstrap and of the shuffled labels (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.modes(
        {
            ALWAYS: ("mode", "against", "train", "clip", "anchors", "resamples", "seed", "json"),
            "tables (JSON has all of it)": ("by_emotion",),
        }
    )
    return parser


def main(argv: list[str]) -> int:
    """Run `emo eval`."""
    args = (options := parser()).parse_args(argv)
    options.refuse_unused(argv, *([] if args.json else ["tables (JSON has all of it)"]))
    from emo_lightning.analysis.references import arm_names
    from emo_lightning.analysis.table5 import in_modes
    from emo_lightning.analysis.table5_rows import SCORING_MODES
    from emo_lightning.report.tables.table5 import table5_page
    from emo_lightning.report.terminal import show_page
    from emo_lightning.stages.tables import score

    files = [args.predictions, *([args.against] if args.against else [])]
    names = arm_names(files)
    against = names[1] if args.against else None
    result = score(
        dict(zip(names, files, strict=True)),
        args.references,
        args.train,
        args.clip,
        against=against,
        resamples=args.resamples,
        seed=args.seed,
        anchors=args.anchors,
    )
    modes = (args.mode,) if args.mode else SCORING_MODES
    if args.json:
        say_json(in_modes(result, modes), indent=1)
        return 0
    show_page(table5_page(result, modes, by_emotion=args.by_emotion))
    for arm, column in result["arms"].items():
        counts = [f"{value} {name.replace('_', ' ')}" for name, value in column["counts"].items() if value]
        say(f"{arm}: {', '.join(counts)}")
    return 0
