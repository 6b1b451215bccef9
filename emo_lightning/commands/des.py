"""`emo des retrieval|distance|interpolate|stability`: what the embedding space can do."""

from __future__ import annotations

import argparse
from pathlib import Path

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.errors import add_debug_option
from emo_lightning.core.options import Parser, Whole, named_places, output_path

EXAMPLES = """examples:
  emo des retrieval runs/demo/probe-*/des.parquet --references 'runs/demo/world/reference/*.tar' --out runs/retrieval
  emo des distance ours=des.parquet --references emotion6/*.tar --out distance
  emo des interpolate data-des/ --references data-des/ --out paths        (tars that hold {key}.des.npy)
  emo des stability runs/demo/model --references 'data/*-test-*.tar' --changes crop=0.8 jpeg=30 --out stability
"""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser(
        "des", "Measure what the emotion embedding (DES) can do. To find images by it, see emo index.", EXAMPLES
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="MEASUREMENT")
    for name, text in (
        ("retrieval", "Do neighbours share the emotion, the triplet and its elements? (recall@k)"),
        ("distance", "Are images that people felt alike about close together? (rank correlation)"),
        ("interpolate", "Do paths between two emotions change step by step? (monotonicity, progress, smoothness)"),
    ):
        verb = _verb(
            verbs,
            name,
            text,
            "[ARM=]DES",
            "des.parquet, tars with {key}.des.npy, or an index; several are compared on the same images",
        )
        verb.add_argument(
            "--metric",
            choices=("cosine", "euclidean"),
            default="cosine",
            help="how far apart two embeddings are (default: cosine)",
        )
        match name:
            case "retrieval":
                verb.add_argument(
                    "--k",
                    type=Whole(1),
                    nargs="+",
                    default=[1, 5, 10],
                    help="numbers of neighbours to look at (default: 1 5 10)",
                )
            case "distance":
                verb.add_argument(
                    "--max-images",
                    type=Whole(3),
                    default=1000,
                    help="sample so many images; the pairs grow with its square (default: 1000)",
                )
            case _:
                verb.add_argument("--per-pair", type=Whole(1), default=10, help="paths per pair of emotions (default: 10)")
                verb.add_argument("--steps", type=Whole(3), default=11, help="points on a path (default: 11)")
                verb.add_argument(
                    "--k", type=Whole(1), default=10, help="neighbours that say what emotion a point has (default: 10)"
                )
    verb = _verb(
        verbs,
        "stability",
        "Does the embedding stay where it is when the image is cropped, compressed or scaled, or the prompt is worded otherwise?",
        "[ARM=]MODEL",
        "folder of an emotion model, or its hub id",
    )
    verb.add_argument(
        "--changes",
        nargs="+",
        metavar="CHANGE",
        help="crop=SHARE, jpeg=QUALITY, resize=SHARE, 'prompt=TEXT with {keys}' (default: some of each)",
    )
    verb.add_argument("--k", type=Whole(1), default=10, help="neighbours that are compared (default: 10)")
    verb.add_argument("--max-images", type=Whole(3), default=200, help="sample so many images (default: 200)")
    verb.add_argument("--batch-size", type=Whole(1), default=32, help="images at a time (default: 32)")
    verb.add_argument("--device", help="torch device (default: a GPU where there is one)")
    return parser


def _verb(verbs: argparse._SubParsersAction[Parser], name: str, text: str, meta: str, what: str) -> Parser:
    example = next(line for line in EXAMPLES.splitlines() if f"emo des {name} " in line)
    verb = verbs.add_parser(
        name, help=text, description=text, epilog=f"example:\n{example}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_debug_option(verb)
    verb.add_argument("inputs", nargs="+", metavar=meta, help=f"{what}; without ARM= an arm is named after its folder")
    verb.add_argument(
        "--references",
        nargs="+",
        required=True,
        metavar="REFS",
        help="records as .jsonl or .parquet, or tars (files, folders, globs)",
    )
    verb.add_argument("--out", type=output_path, required=True, help="folder to write: JSON, tables and figures")
    verb.add_argument("--seed", type=Whole(), default=0, help="random seed (default: 0)")
    return verb


def main(argv: list[str]) -> int:
    """Run `emo des`."""
    args = parser().parse_args(argv)
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.stages import des_space as stages

    if args.verb == "stability":
        silence_advice()
    given = {arm: Path(place) for arm, place in named_places("INPUT", args.inputs, _arm).items()}
    out, references, seed = args.out, args.references, args.seed
    match args.verb:
        case "retrieval":
            stages.retrieval_stage(out, given, references, args.k, args.metric, seed=seed)
        case "distance":
            stages.distance_stage(out, given, references, args.metric, args.max_images, seed=seed)
        case "interpolate":
            stages.interpolation_stage(out, given, references, args.metric, args.per_pair, args.steps, args.k, seed)
        case "stability":
            stages.stability_stage(
                out, given, references, args.changes, args.k, args.max_images, args.batch_size, args.device, seed
            )
    return 0


def _arm(path: Path) -> str:
    """What an input without a name is called: the folder that a file is in, or the folder itself."""
    return path.absolute().parent.name if path.suffix else path.absolute().name
