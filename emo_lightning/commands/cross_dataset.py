"""`emo cross-dataset`: one or more models on several data sets, against the untuned base."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """example:
  emo cross-dataset --arm base=base.jsonl --arm ours=ours.jsonl --base base --in-domain emoset \\
      --set emoset='emoset-test-*.tar' --set emotion6:ekman='emotion6-*.tar' --set findingemo:intensity='findingemo-*.tar'
`experiments/cross_dataset.yaml` trains and predicts as well.
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "emo cross-dataset",
        description="Accuracy of every arm on every set, and what it gained or lost against the untuned base.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arm", action="append", required=True, metavar="NAME=FILE", help="predictions of all sets; again for more"
    )
    parser.add_argument(
        "--set",
        action="append",
        required=True,
        metavar="NAME[:SPACE]=REFS",
        help="records as .jsonl, or tars; SPACE is eight (default), ekman, polarity or intensity; again for more",
    )
    parser.add_argument("--base", required=True, metavar="ARM", help="the arm that was not fine-tuned")
    parser.add_argument("--in-domain", required=True, metavar="SET", help="the set like the one that was trained on")
    parser.add_argument(
        "--trained-on",
        nargs="+",
        metavar="REFS",
        help="records or tars of the training; test images that are also there are left out",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write cross_dataset.json and page.json there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo cross-dataset`."""
    args = parser().parse_args(argv)
    from emo_lightning.analysis.cross_dataset import cross_dataset
    from emo_lightning.analysis.label_spaces import SPACES, SpaceName
    from emo_lightning.analysis.references import References
    from emo_lightning.analysis.scored import read_predictions
    from emo_lightning.core.records import Record
    from emo_lightning.report.tables.cross_dataset import cross_page
    from emo_lightning.report.terminal import show_result
    from emo_lightning.stages.robustness import write_result

    said = {name: read_predictions(Path(file)) for name, file in _pairs("--arm", args.arm).items()}
    sets: dict[str, tuple[list[Record], SpaceName]] = {}
    for key, references in _pairs("--set", args.set).items():
        name, _, space = key.partition(":")
        space = space or "eight"
        if space not in SPACES:
            msg = f"--set {key}: unknown label space {space!r}; allowed: {', '.join(SPACES)}"
            raise ValueError(msg)
        sets[name] = (References.load([references]).records, space)  # type: ignore[assignment]
    trained = {record.sha256 for record in References.load(args.trained_on).records} if args.trained_on else set()
    result = cross_dataset(said, sets, args.base, args.in_domain, args.seed, trained)
    page = cross_page(result)
    if args.out:
        write_result(args.out, "cross_dataset", result, page)
    show_result(result, page, as_json=args.json)
    return 0


def _pairs(option: str, values: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, equals, what = value.partition("=")
        if not equals or not name or not what:
            msg = f"{option} {value}: expected NAME=FILE"
            raise ValueError(msg)
        if name in found:
            msg = f"{option} {name}: given twice"
            raise ValueError(msg)
        found[name] = what
    return found
