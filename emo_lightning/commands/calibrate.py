"""`emo calibrate`: are a model's probabilities what they say, and how many emotions hold the true one nine times in ten."""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLE = """examples:
  emo calibrate runs/demo/probe-attribute/predictions.jsonl 'runs/demo/world/reference/*.tar' --fit 'runs/demo/world/tars/*-val-*.tar'
  emo calibrate predictions.jsonl test.jsonl --fit val.jsonl --alpha 0.2 --score aps --json
"""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        "emo calibrate",
        description="ECE, Brier, log loss and AUROC of confidence, before and after a temperature fitted on validation; conformal "
        "sets with measured coverage; distances to annotated distributions. Predictions need emotion_scores: a probe stage writes "
        "them, `predict` with model.emotion_scores: true.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("predictions", type=Path, metavar="PREDICTIONS.jsonl", help="with emotion_scores")
    parser.add_argument("references", nargs="+", metavar="REFERENCES", help="records as .jsonl, or tars; tested split by split")
    parser.add_argument(
        "--fit", nargs="+", metavar="REFS", help="validation records, for temperature and sets (default: neither is fitted)"
    )
    parser.add_argument("--alpha", type=float, default=0.1, help="share of sets that may miss (default: 0.1)")
    parser.add_argument(
        "--score",
        choices=("lac", "aps"),
        default="lac",
        help="lac: smallest sets; aps: sets that grow with doubt (default: lac)",
    )
    parser.add_argument("--bins", type=int, default=15, help="of the calibration error (default: 15)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write calibration.json, page.json and reliability.svg there")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def main(argv: list[str]) -> int:
    """Run `emo calibrate`."""
    args = parser().parse_args(argv)
    from emo_lightning.analysis.calibration import trust
    from emo_lightning.analysis.references import References
    from emo_lightning.analysis.scored import read_predictions
    from emo_lightning.core.records import Record
    from emo_lightning.report.tables.calibration import calibration_page
    from emo_lightning.report.terminal import show_result
    from emo_lightning.stages.robustness import write_calibration

    said = {args.predictions.stem: read_predictions(args.predictions)}
    sets: dict[str, list[Record]] = {}
    for record in References.load(args.references).records:
        sets.setdefault(record.split or "all", []).append(record)
    fit = None
    if args.fit:
        fit = "(fit)"
        sets = {fit: References.load(args.fit).records, **sets}
    result = trust(said, sets, fit, args.alpha, args.score, args.bins, args.seed)
    if args.out:
        write_calibration(args.out, result)
    show_result(result, calibration_page(result), as_json=args.json)
    return 0
