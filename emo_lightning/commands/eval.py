"""`emo eval`: Table 5 of one predictions file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

EXAMPLE = """examples:
  emo eval runs/demo/predict/predictions.jsonl test.jsonl --mode strict
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
        "--train", nargs="+", metavar="REFS", help="records that the constant answers come from (default: the references)"
    )
    parser.add_argument("--clip", metavar="MODEL", help="CLIP folder or hub id; without it the CLIP rows are not computed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo eval`."""
    args = parser().parse_args(argv)
    from emo_lightning.evaluation.console import show, table5_tables
    from emo_lightning.evaluation.stages import score
    from emo_lightning.evaluation.table5 import MODES

    result = score({args.predictions.stem: args.predictions}, args.references, args.train, args.clip)
    modes = (args.mode,) if args.mode else MODES
    if args.json:
        for column in (*result["arms"].values(), *result["baselines"].values()):
            for mode in set(MODES) - set(modes):
                del column[mode]
        print(json.dumps(result, ensure_ascii=False, indent=1, allow_nan=False))
        return 0
    show(table5_tables(result, modes))
    for arm, column in result["arms"].items():
        counts = [f"{value} {name.replace('_', ' ')}" for name, value in column["counts"].items() if value]
        print(f"{arm}: {', '.join(counts)}")
    return 0
