"""`emo cross-dataset`: one or more models on several data sets, against the untuned base."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import Parser, Whole, named_places, output_path

EXAMPLES = """example:
  emo cross-dataset --arm base=base.jsonl --arm ours=ours.jsonl --base base --in-domain emoset \\
      --set emoset='emoset-test-*.tar' --set emotion6:ekman='emotion6-*.tar' --set findingemo:intensity='findingemo-*.tar'
The experiment experiments/cross_dataset.yaml trains and predicts as well.
"""


ABOUT = """\
Compare several models (arms) on several data sets: the accuracy of every arm on every set, and what it gained or lost against the model
that was not fine-tuned."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("cross-dataset", ABOUT, EXAMPLES)
    parser.add_argument(
        "--arm",
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="an arm and its predictions file, which covers all sets; repeat the option for more arms",
    )
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="NAME[:SPACE]=REFS",
        help="a data set: records as .jsonl or .parquet, or tars; SPACE is its label space: eight (default), ekman, polarity, intensity, "
        "or that of a suite: unbiasedemo-6, eemo-7, webemo-7, webemo-25; repeat the option for more sets",
    )
    parser.add_argument("--base", required=True, metavar="ARM", help="the arm that was not fine-tuned")
    parser.add_argument("--in-domain", required=True, metavar="SET", help="the set that is like the training data")
    parser.add_argument(
        "--trained-on",
        nargs="+",
        metavar="REFS",
        help="records or tars that were trained on; test images that are also there are left out",
    )
    parser.add_argument("--seed", type=Whole(), default=0, help="random seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--out", type=output_path, metavar="DIR", help="also write cross_dataset.json and page.json to this folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo cross-dataset`."""
    args = parser().parse_args(argv)
    from emo_lightning.analysis.cross_dataset import cross_dataset, trained_images
    from emo_lightning.analysis.label_spaces import SPACES, SpaceName
    from emo_lightning.analysis.references import References, by_id
    from emo_lightning.core.records import Reference
    from emo_lightning.report.tables.cross_dataset import cross_page
    from emo_lightning.report.terminal import show_result
    from emo_lightning.stages.robustness import write_result

    predictions = {name: by_id(Path(file)) for name, file in named_places("--arm", args.arm).items()}
    sets: dict[str, tuple[list[Reference], SpaceName]] = {}
    for key, references in named_places("--set", args.set).items():
        name, _, space = key.partition(":")
        space = space or "eight"
        if space not in SPACES:
            msg = f"--set {key}: unknown label space {space!r}; allowed: {', '.join(SPACES)}"
            raise InputError(msg)
        sets[name] = (References.load([references]).records, space)
    trained = trained_images(References.load(args.trained_on).records) if args.trained_on else set()
    result = cross_dataset(predictions, sets, args.base, args.in_domain, args.seed, trained)
    page = cross_page(result)
    if args.out:
        write_result(args.out, "cross_dataset", result, page)
    show_result(result, page, as_json=args.json)
    return 0
