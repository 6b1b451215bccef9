"""Calibration: whether the probabilities of each arm mean what they say on each set.

Calibration scores before and after a temperature, conformal sets, and distances to annotated distributions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

import numpy as np

from emo_lightning.analysis.label_spaces import PARTIAL_SOURCES
from emo_lightning.analysis.scored import Scored
from emo_lightning.core.records import Prediction, Reference, SchemaError
from emo_lightning.inference.calibration import ProbeCalibration
from emo_lightning.metrics.bootstrap import RESAMPLES, Estimate, draws, mean_estimate
from emo_lightning.metrics.calibration import (
    CALIBRATION_BINS,
    Bin,
    TemperatureError,
    at_temperature,
    reliability,
    with_intervals,
)
from emo_lightning.metrics.conformal import ConformalScore, Coverage, measured
from emo_lightning.metrics.distributions import distribution_measures


class Fit(TypedDict):
    """What was fitted for one arm."""

    images: int
    temperature: float
    threshold: float | None
    """Of the conformal sets; None: infinite, every set is the whole."""


class Distances(TypedDict):
    """Mean distance to annotated distributions, by the keys of `metrics.distributions.DISTRIBUTION_MEASURES`."""

    images: int
    kl: Estimate
    js: Estimate
    chebyshev: Estimate
    clark: Estimate
    canberra: Estimate
    cosine: Estimate
    intersection: Estimate
    remarks: list[str]
    """What makes a distance to these annotations say less."""


class SetCalibration(TypedDict):
    """One arm on one set."""

    images: int
    skipped: dict[str, int]
    """Reason -> references that were left out."""
    single_class: bool
    """All images are of one emotion."""
    calibration: dict[str, Estimate]
    """As `metrics.calibration.with_intervals`, of the probabilities as they are."""
    scaled: dict[str, Estimate] | None
    """The same after the temperature; None where nothing was fitted."""
    reliability: list[Bin]
    conformal: Coverage | None
    distribution: Distances | None
    """None where no image has an annotated distribution."""


class ArmCalibration(TypedDict):
    """One arm."""

    fit: Fit | None
    sets: dict[str, SetCalibration]


class Calibration(TypedDict):
    """`calibration.json`: every arm on every set that was not fitted on, and the settings."""

    arms: dict[str, ArmCalibration]
    fit: str | None
    alpha: float
    score: ConformalScore
    bins: int
    seed: int


def _as_json(fitted: ProbeCalibration) -> Fit:
    threshold = fitted.conformal.threshold if np.isfinite(fitted.conformal.threshold) else None
    return {"images": fitted.conformal.images, "temperature": fitted.temperature, "threshold": threshold}


def measure_calibration(
    predictions: Mapping[str, Mapping[str, Prediction]],
    sets: Mapping[str, Sequence[Reference]],
    fit: str | None = "val",
    alpha: float = 0.1,
    score: ConformalScore = "lac",
    bins: int = CALIBRATION_BINS,
    seed: int = 0,
) -> Calibration:
    """Measure every arm on every set but the one that is fitted on.

    Args:
        predictions: arm -> predictions by id, with `emotion_scores`.
        sets: name -> references.
        fit: the set on which temperature and conformal threshold are fitted; None leaves both out. It is measured on no more.
        alpha: share of conformal sets that may miss.
        score: kind of conformal score.
        bins: of the calibration error.
        seed: of the bootstrap.

    Raises:
        SchemaError: no set is left, `fit` is no set or shares images with another, or an arm has no labelled image with scores in a
            set; names both.
    """
    if fit is not None and fit not in sets:
        msg = f"fit: there is no set {fit!r}; allowed: {', '.join(sets)}, or null for none"
        raise SchemaError(msg)
    tested = [name for name in sets if name != fit]
    if not tested:
        msg = f"sets: only {fit!r} is named, which temperature and conformal sets are fitted on; name another to test"
        raise SchemaError(msg)
    if not 0 < alpha < 1 or bins < 1:
        msg = f"alpha is {alpha}, bins is {bins}; expected 0 < alpha < 1 and at least one bin"
        raise SchemaError(msg)
    if fit is not None:
        _refuse_shared(fit, {name: sets[name] for name in tested}, sets[fit])
    arms: dict[str, ArmCalibration] = {}
    for arm, said in predictions.items():
        fitted = _fit(arm, said, fit, sets[fit], alpha, score) if fit is not None else None
        arms[arm] = {
            "fit": None if fitted is None else _as_json(fitted),
            "sets": {name: _set(arm, name, said, sets[name], fitted, bins, seed) for name in tested},
        }
    return {"arms": arms, "fit": fit, "alpha": alpha, "score": score, "bins": bins, "seed": seed}


def _refuse_shared(fit: str, tested: Mapping[str, Sequence[Reference]], fitted_on: Sequence[Reference]) -> None:
    known, files = {record.id for record in fitted_on}, {one for record in fitted_on for one in record.image_hashes}
    for name, records in tested.items():
        if double := sum(record.id in known or not files.isdisjoint(record.image_hashes) for record in records):
            msg = (
                f"fit: the set {fit!r} shares {double} images with {name!r}: what is fitted on an image cannot be tested on it"
            )
            raise SchemaError(msg)


def _labelled(arm: str, name: str, said: Mapping[str, Prediction], records: Sequence[Reference]) -> tuple[Scored, Scored]:
    """(all with scores, those with a category as well)."""
    scored = Scored.match(said, records, f"arm {arm!r}")
    labelled = scored.labelled()
    if not len(labelled):
        why = ", ".join(f"{n} {reason}" for reason, n in scored.skipped.items()) or "no reference has an emotion"
        msg = (
            f"arm {arm!r}, set {name!r}: none of {len(records)} references has both an emotion and predicted emotion_scores ({why}); "
            "`predict` writes them with model.emotion_scores: true, and every probe stage does"
        )
        raise SchemaError(msg)
    return scored, labelled


def _fit(
    arm: str, said: Mapping[str, Prediction], name: str, records: Sequence[Reference], alpha: float, score: ConformalScore
) -> ProbeCalibration:
    _, known = _labelled(arm, name, said, records)
    try:
        return ProbeCalibration.fit(known.predicted, known.truth, alpha, score)
    except TemperatureError as error:
        msg = f"arm {arm!r}, set {name!r}: {error}"
        raise SchemaError(msg) from None


def _set(
    arm: str,
    name: str,
    said: Mapping[str, Prediction],
    records: Sequence[Reference],
    fitted: ProbeCalibration | None,
    bins: int,
    seed: int,
) -> SetCalibration:
    scored, known = _labelled(arm, name, said, records)
    skipped = dict(scored.skipped)
    if without := len(scored) - len(known):
        skipped["without an emotion"] = without
    scaled = conformal = None
    if fitted is not None:
        cooled = at_temperature(known.predicted, fitted.temperature)
        scaled = with_intervals(known.ids, cooled, known.truth, bins, seed)
        # From the probabilities as they are: both fits use the same images, and a set that was tuned twice is guaranteed nothing.
        conformal = measured(fitted.conformal.sets(known.predicted), known.truth)
    return {
        "images": len(known),
        "skipped": skipped,
        "single_class": len(np.unique(known.truth)) == 1,
        "calibration": with_intervals(known.ids, known.predicted, known.truth, bins, seed),
        "scaled": scaled,
        "reliability": reliability(known.predicted, known.truth, bins),
        "conformal": conformal,
        "distribution": _distances(scored, records, seed),
    }


def _distances(scored: Scored, records: Sequence[Reference], seed: int) -> Distances | None:
    rows = np.flatnonzero(np.isfinite(scored.annotated).all(1))
    if not len(rows):
        return None
    known = scored.take(rows)
    weights = draws(known.ids, RESAMPLES, seed)
    measures = distribution_measures(known.predicted, known.annotated)
    means = {key: mean_estimate(values, weights) for key, values in measures.items()}
    sources = {record.source for record in records if record.source and record.emotion_scores is not None}
    return {
        "images": len(known),
        "kl": means["kl"],
        "js": means["js"],
        "chebyshev": means["chebyshev"],
        "clark": means["clark"],
        "canberra": means["canberra"],
        "cosine": means["cosine"],
        "intersection": means["intersection"],
        "remarks": [PARTIAL_SOURCES[source] for source in sorted(sources & PARTIAL_SOURCES.keys())],
    }
