"""`emo calibrate`: whether a model's probabilities mean what they say."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.options import ALWAYS, Parser, Real, Whole, output_path

EXAMPLES = """examples:
  emo calibrate runs/demo/probe-attribute/predictions.jsonl 'runs/demo/world/reference/*.tar' --fit 'runs/demo/world/tars/*-val-*.tar'
  emo calibrate predictions.jsonl test.jsonl --fit val.jsonl --alpha 0.2 --score aps --json
"""


ABOUT = """\
Check whether a model's probabilities of the emotions mean what they say: calibration error (ECE), Brier score, log loss and AUROC of
the confidence. With --fit also: the same after temperature scaling, and conformal sets with the coverage that they reach.
The predictions need `emotion_scores`: a `probe` stage writes them, and so does `emo predict --emotion-scores`."""


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("calibrate", ABOUT, EXAMPLES)
    parser.add_argument(
        "predictions", type=Path, metavar="PREDICTIONS", help="predictions with emotion_scores: .jsonl, .parquet or tars"
    )
    parser.add_argument(
        "references",
        nargs="+",
        metavar="REFERENCES",
        help="records as .jsonl or .parquet (id and the labels that are scored are enough), or tars; each split is tested by "
        "itself",
    )
    parser.add_argument(
        "--fit",
        nargs="+",
        metavar="REFS",
        help="validation records; temperature and conformal sets are fitted on them (default: neither is fitted)",
    )
    parser.add_argument(
        "--alpha",
        type=Real(0, 1, above=True, below=True),
        default=0.1,
        help="share of conformal sets that may miss the true emotion (default: 0.1)",
    )
    parser.add_argument(
        "--score",
        choices=("lac", "aps"),
        default="lac",
        help="of the conformal sets; lac: the smallest sets; aps: sets that grow with the model's doubt (default: lac)",
    )
    parser.add_argument(
        "--bins", type=Whole(1, 10_000), default=15, help="number of bins of the calibration error (default: 15)"
    )
    parser.add_argument("--seed", type=Whole(), default=0, help="random seed of the bootstrap (default: 0)")
    parser.add_argument(
        "--out",
        type=output_path,
        metavar="DIR",
        help="also write calibration.json, page.json and reliability.svg to this folder",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.modes({ALWAYS: ("fit", "bins", "seed", "out", "json"), "conformal sets (--fit)": ("alpha", "score")})
    return parser


def main(argv: list[str]) -> int:
    """Run `emo calibrate`."""
    args = (options := parser()).parse_args(argv)
    options.refuse_unused(argv, *(["conformal sets (--fit)"] if args.fit else []))
    from emo_lightning.analysis.calibration import measure_calibration
    from emo_lightning.analysis.references import References, by_id
    from emo_lightning.core.records import Reference
    from emo_lightning.report.tables.calibration import calibration_page
    from emo_lightning.report.terminal import show_result
    from emo_lightning.stages.robustness import write_calibration

    predictions = {args.predictions.stem: by_id(args.predictions)}
    sets: dict[str, list[Reference]] = {}
    for record in References.load(args.references).records:
        sets.setdefault(record.split or "all", []).append(record)
    fit = None
    if args.fit:
        fit = "(fit)"
        sets = {fit: References.load(args.fit).records, **sets}
    result = measure_calibration(predictions, sets, fit, args.alpha, args.score, args.bins, args.seed)
    if args.out:
        write_calibration(args.out, result)
    show_result(result, calibration_page(result), as_json=args.json)
    return 0
