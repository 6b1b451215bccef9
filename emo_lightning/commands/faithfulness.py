"""`emo faithfulness`: does the emotion depend on the region that its words were grounded to."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import add_model, new_parser
from emo_lightning.core.options import Parser, Real, Whole, output_path

EXAMPLES = """examples:
  emo faithfulness 'runs/demo/world/reference/*-test-*.tar' --model runs/demo/model
  emo faithfulness 'data/*-test-*.tar' --model runs/table6/model --boxes predictions.jsonl --mask blur --json
"""


ABOUT = """\
Test whether the emotion depends on the region that the words name: mask the grounded box of each image, then boxes of the same size
elsewhere in it, and compare how far the probability of the emotion falls."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("faithfulness", ABOUT, EXAMPLES)
    parser.add_argument("references", nargs="+", metavar="TARS", help="tars with boxes (files, folders, globs)")
    add_model(parser)
    parser.add_argument(
        "--boxes",
        type=Path,
        metavar="PREDICTIONS.jsonl",
        help="mask the boxes that a model has named, instead of those in the tars",
    )
    parser.add_argument(
        "--mask",
        choices=("mean", "blur"),
        default="mean",
        help="what covers a box: the mean colour of the image, or a blur (default: mean)",
    )
    parser.add_argument("--draws", type=Whole(1, 10_000), default=8, help="random boxes for each image (default: 8)")
    parser.add_argument(
        "--max-overlap",
        type=Real(0, 1),
        default=0.3,
        help="how much a random box may overlap the grounded one, as IoU (default: 0.3)",
    )
    parser.add_argument("--limit", type=Whole(1), help="only the first so many images")
    parser.add_argument("--batch-size", type=Whole(1), default=16, help="images at a time (default: 16)")
    parser.add_argument("--seed", type=Whole(), default=0, help="random seed of the boxes and of the bootstrap (default: 0)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument(
        "--out", type=output_path, metavar="DIR", help="also write faithfulness.json and page.json to this folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo faithfulness`."""
    args = parser().parse_args(argv)
    from emo_lightning.analysis.faithfulness import MaskPlan, faithfulness
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.report.tables.faithfulness import faithfulness_page
    from emo_lightning.report.terminal import show_result
    from emo_lightning.stages.robustness import write_result

    silence_advice()
    plan = MaskPlan(args.mask, args.draws, args.max_overlap, args.seed)
    net = EmotionModel.from_pretrained(args.model, args.device)
    result = faithfulness(net, args.references, args.boxes, plan, args.limit, args.batch_size)
    page = faithfulness_page(result)
    if args.out:
        write_result(args.out, "faithfulness", result, page)
    show_result(result, page, as_json=args.json)
    return 0
