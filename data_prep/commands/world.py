"""`emo prep world`: write reference tars of the demo world, with its known truth."""

from __future__ import annotations

from data_prep.commands.console import add_images_argument, new_parser, print_manifest
from emo_lightning.core.options import Whole


def main(argv: list[str]) -> int:
    """Write reference tars of the demo world, with its known truth."""
    parser = new_parser(
        "world",
        "Write reference tars of the drawn demo world, of which everything is known: the images need no annotation.",
        "emo prep world tars/test --split test --count 300 --labels truth",
    )
    parser.add_argument("out", help="directory of the tars")
    parser.add_argument("--split", required=True, help="split of the world: pretrain, train, val, test or heldout")
    parser.add_argument("--count", type=Whole(1), required=True, metavar="N", help="number of images")
    parser.add_argument(
        "--labels",
        choices=("truth", "neutral"),
        default="truth",
        help="truth: everything; neutral: caption, triplet and boxes, but no emotion (default: truth)",
    )
    parser.add_argument("--style", default="flat", help="style of the drawings: flat or dusk (default: flat)")
    parser.add_argument("--seed", type=Whole(), default=0, metavar="N", help="seed of the world (default: 0)")
    add_images_argument(parser, "jpg")
    args = parser.parse_args(argv)
    from data_prep.demo.config import WorldConfig
    from data_prep.demo.world import WORLD_SPLITS
    from data_prep.demo.world.style import STYLES
    from data_prep.demo.world_tars import write_world_tars
    from data_prep.sources import SourceError

    if args.split not in WORLD_SPLITS:
        msg = f"--split {args.split}: allowed are {', '.join(WORLD_SPLITS)}"
        raise SourceError(msg)
    if args.style not in STYLES:
        msg = f"--style {args.style}: allowed are {', '.join(STYLES)}"
        raise SourceError(msg)
    world = WorldConfig(seed=args.seed, style=args.style)
    manifest = write_world_tars(args.out, world, {args.split: args.count}, args.labels, images=args.images or "jpg")
    print_manifest(args.out, manifest)
    return 0
