"""`emo faithfulness`: does the emotion hang on the region that its words were grounded to."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """examples:
  emo faithfulness 'runs/demo/world/reference/*-test-*.tar' --model runs/demo/model
  emo faithfulness 'data/test-*.tar' --model runs/table6/model --boxes predictions.jsonl --mask blur --json
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "emo faithfulness",
        description="Mask the grounded box of each image, and boxes of the same size elsewhere in it, and compare how far the "
        "probability of the emotion falls.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("references", nargs="+", metavar="TARS", help="tars with boxes (files, folders, globs)")
    parser.add_argument(
        "--model", type=Path, default=Path("runs/demo/model"), help="folder with emo.json (default: runs/demo/model)"
    )
    parser.add_argument("--boxes", type=Path, metavar="PREDICTIONS.jsonl", help="mask the boxes that a model said instead")
    parser.add_argument(
        "--mask", choices=("mean", "blur"), default="mean", help="mean colour of the image, or blur (default: mean)"
    )
    parser.add_argument("--draws", type=int, default=8, help="random boxes per image (default: 8)")
    parser.add_argument(
        "--max-overlap", type=float, default=0.3, help="of a random box with the grounded one, IoU (default: 0.3)"
    )
    parser.add_argument("--limit", type=int, help="only the first so many images")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of boxes and bootstrap (default: 0)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write faithfulness.json and page.json there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo faithfulness`."""
    args = parser().parse_args(argv)
    from emo_lightning.analysis.faithfulness import MaskPlan, faithfulness
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.report.console import show_result
    from emo_lightning.report.tables.faithfulness import faithfulness_page
    from emo_lightning.stages.robustness import write_result

    silence_advice()
    if (args.limit is not None and args.limit < 1) or args.batch_size < 1:
        msg = f"--limit {args.limit}, --batch-size {args.batch_size}: expected at least 1"
        raise ValueError(msg)
    plan = MaskPlan(args.mask, args.draws, args.max_overlap, args.seed)
    net = EmotionModel(args.model, args.device)
    result = faithfulness(net, args.references, args.boxes, plan, args.limit, args.batch_size)
    page = faithfulness_page(result)
    if args.out:
        write_result(args.out, "faithfulness", result, page)
    show_result(result, page, as_json=args.json)
    return 0
