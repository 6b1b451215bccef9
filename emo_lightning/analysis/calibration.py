"""What a model's probabilities are worth: calibration, temperature, conformal sets and distances, for each arm and each set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emo_lightning.analysis.label_spaces import PARTIAL_SOURCES
from emo_lightning.analysis.scored import Scored
from emo_lightning.core.records import Prediction, Record, SchemaError
from emo_lightning.metrics.bootstrap import RESAMPLES, draws, interval
from emo_lightning.metrics.calibration import (
    BINS,
    at_temperature,
    fit_temperature,
    reliability,
    with_intervals,
)
from emo_lightning.metrics.conformal import Conformal, Score, measured
from emo_lightning.metrics.distributions import distribution_measures


def measure_calibration(
    predictions: Mapping[str, Mapping[str, Prediction]],
    sets: Mapping[str, Sequence[Record]],
    fit: str | None = "val",
    alpha: float = 0.1,
    score: Score = "lac",
    bins: int = BINS,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything, as JSON.

    Args:
        predictions: arm -> predictions by id, with `emotion_scores`.
        sets: name -> references.
        fit: the set on which temperature and conformal threshold are fitted; None leaves both out. It is measured on no more.
        alpha: share of conformal sets that may miss.
        score: kind of conformal score.
        bins: of the calibration error.
        seed: of the bootstrap.

    Returns:
        `arms`: arm -> `fit` (`images`, `temperature`, `threshold` (None: infinite), or None), and `sets`: name -> `images`,
        `skipped`, `calibration` and `scaled` (after temperature; None without) as `with_intervals`, `reliability`, `conformal` as
        `measured` or None, `distribution` (key of `MEASURES` -> mean with interval; `images`, `remarks`) or
        None.

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
    arms = {}
    for arm, said in predictions.items():
        fitted = _fit(arm, said, fit, sets[fit], alpha, score) if fit is not None else None
        arms[arm] = {
            "fit": fitted and {k: v for k, v in fitted.items() if k != "conformal"},
            "sets": {name: _set(arm, name, said, sets[name], fitted, bins, seed) for name in tested},
        }
    return {"arms": arms, "fit": fit, "alpha": alpha, "score": score, "bins": bins, "seed": seed}


def _refuse_shared(fit: str, tested: Mapping[str, Sequence[Record]], fitted_on: Sequence[Record]) -> None:
    known, files = {record.id for record in fitted_on}, {record.sha256 for record in fitted_on}
    for name, records in tested.items():
        if double := sum(record.id in known or record.sha256 in files for record in records):
            msg = (
                f"fit: the set {fit!r} shares {double} images with {name!r}: what is fitted on an image cannot be tested on it"
            )
            raise SchemaError(msg)


def _labelled(arm: str, name: str, said: Mapping[str, Prediction], records: Sequence[Record]) -> tuple[Scored, Scored]:
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
    arm: str, said: Mapping[str, Prediction], name: str, records: Sequence[Record], alpha: float, score: Score
) -> dict[str, Any]:
    _, known = _labelled(arm, name, said, records)
    try:
        temperature = fit_temperature(known.predicted, known.truth)
    except ValueError as error:
        msg = f"arm {arm!r}, set {name!r}: {error}"
        raise SchemaError(msg) from None
    conformal = Conformal.fit(known.predicted, known.truth, alpha, score)
    threshold = conformal.threshold if np.isfinite(conformal.threshold) else None
    return {"images": len(known), "temperature": temperature, "threshold": threshold, "conformal": conformal}


def _set(
    arm: str,
    name: str,
    said: Mapping[str, Prediction],
    records: Sequence[Record],
    fitted: dict[str, Any] | None,
    bins: int,
    seed: int,
) -> dict[str, Any]:
    scored, known = _labelled(arm, name, said, records)
    skipped = dict(scored.skipped)
    if without := len(scored) - len(known):
        skipped["without an emotion"] = without
    scaled = conformal = None
    if fitted is not None:
        cooled = at_temperature(known.predicted, fitted["temperature"])
        scaled = with_intervals(known.ids, cooled, known.truth, bins, seed)
        # From the probabilities as they are: both fits use the same images, and a set that was tuned twice is guaranteed nothing.
        conformal = measured(fitted["conformal"].sets(known.predicted), known.truth)
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


def _distances(scored: Scored, records: Sequence[Record], seed: int) -> dict[str, Any] | None:
    rows = np.flatnonzero(np.isfinite(scored.annotated).all(1))
    if not len(rows):
        return None
    known = scored.take(rows)
    weights = draws(known.ids, RESAMPLES, seed)
    found: dict[str, Any] = {"images": len(known)}
    for key, values in distribution_measures(known.predicted, known.annotated).items():
        with np.errstate(invalid="ignore"):
            low, high = interval((values @ weights) / weights.sum(0), len(known)) or (None, None)
        found[key] = {"value": float(values.mean()), "low": low, "high": high}
    sources = {record.source for record in records if record.emotion_scores is not None}
    return found | {"remarks": [PARTIAL_SOURCES[source] for source in sorted(sources & PARTIAL_SOURCES.keys())]}
