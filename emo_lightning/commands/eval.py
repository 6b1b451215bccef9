"""`emo eval`: Table 5 of one predictions file, or of two and their difference."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLE = """examples:
  emo eval runs/demo/predict-base/predictions.jsonl runs/demo/world/reference --mode strict
  emo eval ours.jsonl 'data/test-*.tar' --against theirs.jsonl --by-emotion
  emo eval predictions.jsonl 'data/test-*.tar' --train 'data/train-*.tar' --clip openai/clip-vit-base-patch32 --json
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "emo eval", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "predictions", type=Path, metavar="PREDICTIONS.jsonl", help="one JSON object per image, values as the model said them"
    )
    parser.add_argument(
        "references",
        nargs="+",
        metavar="REFERENCES",
        help="records as .jsonl, or tars (files, folders, globs); only tars have images",
    )
    parser.add_argument("--mode", choices=("paper", "strict"), help="one mode alone (default: both)")
    parser.add_argument(
        "--against", type=Path, metavar="OTHER.jsonl", help="a second predictions file: differences on the same images"
    )
    parser.add_argument(
        "--train", nargs="+", metavar="REFS", help="records that the baselines come from (default: the references)"
    )
    parser.add_argument("--clip", metavar="MODEL", help="CLIP folder or hub id; without it the CLIP rows are not computed")
    parser.add_argument("--by-emotion", action="store_true", help="print the breakdown by emotion and the confusion matrix")
    parser.add_argument(
        "--resamples",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap over images, for 95 %% intervals; 0: none (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap and of the shuffled labels (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo eval`."""
    args = parser().parse_args(argv)
    from emo_lightning.analysis.references import arm_names
    from emo_lightning.analysis.table5 import in_modes
    from emo_lightning.analysis.table5_rows import MODES
    from emo_lightning.report.console import show, table5_tables
    from emo_lightning.report.table5_details import emotion_tables, paired_tables
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
    )
    modes = (args.mode,) if args.mode else MODES
    if args.json:
        print(json.dumps(in_modes(result, modes), ensure_ascii=False, indent=1, allow_nan=False))
        return 0
    show(table5_tables(result, modes))
    show(paired_tables(result, modes))
    if args.by_emotion:
        show(emotion_tables(result, modes))
    for arm, column in result["arms"].items():
        counts = [f"{value} {name.replace('_', ' ')}" for name, value in column["counts"].items() if value]
        print(f"{arm}: {', '.join(counts)}")
    return 0
