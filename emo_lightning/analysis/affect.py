"""Valence, arousal and dominance: what a model says against the mean of what people said.

Three correlations, each with an interval over images: SRCC of ranks, PLCC of values, and CCC, for which scale and offset count too. All values
are from -1 to 1; a reference's scale is mapped onto it. A model that says only how probable each of the eight is has a point as well, the mean
of their anchors weighed by that (arXiv:2605.26262), where anchors are named: norms disagree, so they say their source.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np

from emo_lightning.analysis.scored import probabilities
from emo_lightning.core.records import DIMENSIONS, Prediction, Reference
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.bootstrap import Estimate, draws, interval
from emo_lightning.metrics.correlation import concordance, pearson, spearman
from emo_lightning.metrics.emotion_space import Anchors

CORRELATIONS: dict[str, Callable[[Array, Array, Array], Array]] = {"srcc": spearman, "plcc": pearson, "ccc": concordance}
"""By their short names."""
_CELLS = 1 << 24
"""Images times resamples that are held at once."""


class DimensionScores(TypedDict):
    """One dimension of one arm."""

    srcc: Estimate
    plcc: Estimate
    ccc: Estimate
    images: int
    """With a rating and an answer."""
    from_anchors: int
    """Of these, answers that are the mean of anchors."""
    missing: int
    """With a rating and no answer; they are in no correlation."""


class AffectScores(TypedDict):
    """All arms, JSON-ready."""

    arms: dict[str, dict[str, DimensionScores]]
    """Arm -> dimension that any reference has."""
    anchors: str | None
    """Source of the anchors; None where none were named."""


def has_ratings(records: Iterable[Reference]) -> bool:
    """Whether any reference says what people rated."""
    return any(value is not None for record in records for value in record.affect())


def affect_scores(
    arms: Mapping[str, Mapping[str, Prediction]],
    records: Sequence[Reference],
    anchors: Anchors | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> AffectScores:
    """Score several sets of predictions.

    Args:
        arms: name -> predictions by id.
        records: what people said; those without a rating of a dimension are not looked at in it.
        anchors: of the eight, for predictions that give `emotion_scores` and no value of their own.
        resamples: of the bootstrap over images; 0 gives no intervals.
        seed: of the bootstrap.

    Raises:
        SchemaError: an emotion's name that is none of the eight.
    """
    truth = np.array([[math.nan if value is None else value for value in record.affect()] for record in records])
    truth = truth.reshape(-1, len(DIMENSIONS))
    known = ~np.isnan(truth)
    result: AffectScores = {"arms": {}, "anchors": None if anchors is None else anchors.source}
    for arm, predictions in arms.items():
        said, derived = _said(predictions, records, anchors)
        result["arms"][arm] = {
            dimension: _scores(truth[:, n], said[:, n], derived[:, n], [record.id for record in records], resamples, seed)
            for n, dimension in enumerate(DIMENSIONS)
            if known[:, n].any()
        }
    return result


def _said(predictions: Mapping[str, Prediction], records: Sequence[Reference], anchors: Anchors | None) -> tuple[Array, Array]:
    """(N, 3) of what is said, NaN where nothing is, and (N, 3), whether it is made of anchors."""
    points = None if anchors is None else anchors.array(len(DIMENSIONS))
    said = np.full((len(records), len(DIMENSIONS)), np.nan)
    for row, record in zip(said, records, strict=True):
        if (prediction := predictions.get(record.id)) is not None:
            own = (prediction.valence, prediction.arousal, prediction.dominance)
            row[:] = [value if value is not None and math.isfinite(value) else math.nan for value in own]
    derived = np.zeros(said.shape, dtype=bool)
    if points is None:
        return said, derived
    for n, record in enumerate(records):
        prediction = predictions.get(record.id)
        shares = None if prediction is None else probabilities(prediction)
        if shares is not None:
            made = shares @ points
            derived[n] = np.isnan(said[n]) & ~np.isnan(made)
            said[n] = np.where(derived[n], made, said[n])
    return said, derived


def _scores(truth: Array, said: Array, derived: Array, ids: Sequence[str], resamples: int, seed: int) -> DimensionScores:
    rated = ~np.isnan(truth)
    both = np.flatnonzero(rated & ~np.isnan(said))
    estimates = _estimates(truth[both], said[both], [ids[n] for n in both.tolist()], resamples, seed)
    return {
        "srcc": estimates["srcc"],
        "plcc": estimates["plcc"],
        "ccc": estimates["ccc"],
        "images": len(both),
        "from_anchors": int(derived[both].sum()),
        "missing": int(rated.sum()) - len(both),
    }


def _estimates(truth: Array, said: Array, ids: Sequence[str], resamples: int, seed: int) -> dict[str, Estimate]:
    if not len(ids):
        return {name: Estimate(value=None, low=None, high=None) for name in CORRELATIONS}
    once = np.ones((len(ids), 1))
    weights = draws(ids, resamples, seed) if resamples else np.zeros((len(ids), 0))
    step = max(1, _CELLS // len(ids))
    found: dict[str, Estimate] = {}
    for name, measure in CORRELATIONS.items():
        value = float(measure(truth, said, once)[0])
        pieces = [measure(truth, said, weights[:, start : start + step]) for start in range(0, resamples, step)]
        bounds = interval(np.concatenate(pieces), len(ids)) if pieces and math.isfinite(value) else None
        low, high = bounds or (None, None)
        found[name] = Estimate(value=value if math.isfinite(value) else None, low=low, high=high)
    return found
