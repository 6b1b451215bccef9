"""What `calibration` measured, as tables and notes."""

from __future__ import annotations

from collections.abc import Iterator

from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.tables.table import Cell, Result, Spread, Table, columns
from emo_lightning.metrics.bootstrap import FEW
from emo_lightning.metrics.calibration import TEMPERATURES
from emo_lightning.metrics.distributions import MEASURES
from emo_lightning.report.page import Page

CALIBRATION_COLUMNS = {
    "accuracy": "accuracy ↑",
    "confidence": "mean confidence",
    "ece": "ECE ↓",
    "brier": "Brier ↓",
    "nll": "log loss ↓",
    "auroc": "AUROC ↑",
}
_WITH_INTERVAL = ("ece", "brier", "auroc")
"""Shown with it; the JSON holds all."""


def calibration_page(result: Result) -> Page:
    """What `measure_calibration` returned, as tables for the terminal and the report."""
    arms = result["arms"]
    page = Page(
        "Calibration and conformal sets",
        "Whether the probabilities mean what they say. Accuracy, confidence, ECE and AUROC (of telling right answers from wrong ones by "
        "confidence) in percent, Brier from 0 to 2, log loss in nats; 95 % bootstrap intervals over images.",
        notes=_notes(result),
    )
    rows: list[list[Cell]] = []
    keys: list[str] = []
    for arm, name, found in _each(arms):
        for which, temperature, scores in (
            ("predicted", 1.0, found["calibration"]),
            ("scaled", arms[arm]["fit"] and arms[arm]["fit"]["temperature"], found["scaled"]),
        ):
            if scores is not None:
                cells = [Spread(**scores[k]) if k in _WITH_INTERVAL else scores[k]["value"] for k in CALIBRATION_COLUMNS]
                rows.append([arm, name, found["images"], temperature, *cells])
                keys.append(f"{arm}/{name}/{which}")
    note = f"T divides the log-probabilities; at T = 1 they are as predicted. {result['bins']} bins. "
    note += f"T of the other rows was fitted on the set {result['fit']}. " if result["fit"] else ""
    note += "Intervals of ECE lie high: a resample is noisier in every bin than the images are."
    shown = columns("arm", "set", "images", ("temperature", "T"), *CALIBRATION_COLUMNS.items())
    page.tables.append(Table("calibration-ece", "Calibration", shown, rows, note, row_keys=keys))
    if result["fit"]:
        page.tables += _conformal_tables(result)
    rows = [
        [arm, name, found["distribution"]["images"], *(Spread(**found["distribution"][m.key]) for m in MEASURES)]
        for arm, name, found in _each(arms)
        if found["distribution"]
    ]
    if rows:
        measures = [(m.key, f"{m.title} {'↓' if m.lower_is_better else '↑'}") for m in MEASURES]
        page.tables.append(
            Table(
                "calibration-distances",
                "Distance to the annotated distributions",
                columns("arm", "set", "images", *measures),
                rows,
                "Means over images with 95 % bootstrap intervals.",
                digits=3,
                row_keys=[f"{row[0]}/{row[1]}" for row in rows],
            )
        )
    return page


def _conformal_tables(result: Result) -> list[Table]:
    aim = f"{100 * (1 - result['alpha']):g}"
    whole: list[list[Cell]] = []
    emotions: list[list[Cell]] = []
    for name, found in next(iter(result["arms"].values()))["sets"].items():
        emotions.append(["images", name, *(found["conformal"]["emotions"][str(e)]["images"] for e in EMOTIONS)])
    for arm, name, found in _each(result["arms"]):
        c = found["conformal"]
        sizes = ", ".join(f"{n}: {count}" for n, count in c["sizes"].items() if count)
        whole.append([arm, name, c["images"], Spread(c["coverage"], c["low"], c["high"]), c["size"], sizes])
        emotions.append([arm, name, *(c["emotions"][str(e)]["coverage"] for e in EMOTIONS)])
    note = (
        f"Split conformal sets, score {result['score']}, aimed at {aim} %, fitted on the set {result['fit']}. The aim is guaranteed on "
        "images like that set's, on average over them; elsewhere coverage is only what is measured here. Exact binomial intervals."
    )
    return [
        Table(
            f"conformal-sets/{aim}",
            f"Sets of emotions, {aim} %",
            columns("arm", "set", "images", "coverage", ("size", "emotions a set"), ("sizes", "sets by size")),
            whole,
            note,
            row_keys=[f"{row[0]}/{row[1]}" for row in whole],
        ),
        Table(
            f"conformal-coverage/{aim}",
            f"Coverage by true emotion, {aim} %",
            columns("arm", "set", *(str(e) for e in EMOTIONS)),
            emotions,
            "The first rows: how many images stand behind a number.",
            digits=1,
            row_keys=[f"{row[0]}/{row[1]}" for row in emotions],
        ),
    ]


def _each(arms: Result) -> list[tuple[str, str, Result]]:
    return [(arm, name, found) for arm, body in arms.items() for name, found in body["sets"].items()]


def _notes(result: Result) -> list[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for arm, name, about in _each(result["arms"]):
        for text in _remarks(about):
            found.setdefault((name, text), []).append(arm)
    for arm, body in result["arms"].items():
        for text in _remarks_on_fit(body["fit"], result["alpha"]) if body["fit"] else ():
            found.setdefault((result["fit"], text), []).append(arm)
    return [f"{', '.join(arms)}, {name}: {text}" for (name, text), arms in found.items()]


def _remarks(found: Result) -> Iterator[str]:
    """What is to be said of one arm on one set."""
    for reason, count in found["skipped"].items():
        yield f"{count} references {reason} are left out"
    if found["images"] == 1:
        yield "one image, so there are no intervals"
    elif found["images"] < FEW:
        yield f"{found['images']} images are too few for the intervals of the bootstrap, which are too narrow here"
    if found["single_class"] and found["images"] > 1:
        yield f"all {found['images']} images are of one emotion"
    if found["calibration"]["auroc"]["value"] is None:
        yield "all answers are right or all are wrong, so confidence has no AUROC"
    if found["distribution"]:
        yield from found["distribution"]["remarks"]


def _remarks_on_fit(fit: Result, alpha: float) -> Iterator[str]:
    if not 1.01 * TEMPERATURES[0] < fit["temperature"] < 0.99 * TEMPERATURES[1]:
        yield "the temperature is at the end of its range: these probabilities say nothing of this validation set"
    if fit["threshold"] is None:
        yield f"{fit['images']} images are too few for alpha {alpha:g}: every set is all eight"
