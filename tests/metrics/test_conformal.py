"""Conformal sets keep their promise on exchangeable images, and their figures are what a loop counts."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from scipy.stats import beta

from emo_lightning.core.records import EMOTIONS
from emo_lightning.metrics.conformal import Conformal, measured
from tests.metrics.test_calibration import drawn

Score = Literal["lac", "aps"]


@pytest.mark.parametrize("score", ["lac", "aps"])
@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_coverage_is_what_was_promised_however_wrong_the_probabilities(score: Score, sharpness: float) -> None:
    found = []
    for seed in range(60):
        p, y = drawn(500, sharpness, seed)
        sets = Conformal.fit(p[:200], y[:200], 0.2, score).sets(p[200:])
        found.append(sets[np.arange(300), y[200:]].mean())
    # Between 1 - alpha and that plus 1 / (n + 1), and more only where the surest label alone holds more already; 60 fits
    # of 300 images each leave a standard error of 0.5 points.
    assert np.mean(found) > 0.8 - 0.015
    assert np.mean(found) < 0.8 + 0.005 + 0.015 + (0.1 if score == "aps" else 0.0)


def test_the_threshold_is_the_right_order_statistic() -> None:
    p, y = drawn(19)
    fitted = Conformal.fit(p, y, alpha=0.1)
    scores = sorted(1 - p[i, y[i]] for i in range(19))
    assert fitted.threshold == scores[math.ceil(20 * 0.9) - 1]
    sets = fitted.sets(p)
    for i in range(19):
        expected = {c for c in range(8) if 1 - p[i, c] <= fitted.threshold} | {int(p[i].argmax())}
        assert set(np.flatnonzero(sets[i])) == expected
    assert Conformal.fit(p[:8], y[:8], alpha=0.1).threshold == math.inf, "8 images cannot promise 90 %"
    assert Conformal.fit(p[:8], y[:8], alpha=0.1).sets(p).all()


def test_aps_counts_the_surer_labels() -> None:
    p = np.array([[0.5, 0.2, 0.3, 0, 0, 0, 0, 0.0]])
    fitted = Conformal("aps", 0.1, 0.8, 10)
    assert np.flatnonzero(fitted.sets(p)[0]).tolist() == [0, 2]
    assert Conformal("aps", 0.1, 0.1, 10).sets(p).sum() == 1, "no set is empty"


def test_what_is_measured() -> None:
    p, y = drawn(200)
    y[y == 3] = 4
    sets = Conformal.fit(*drawn(300, seed=9), 0.1).sets(p)
    found = measured(sets, y)
    hits = [bool(sets[i, y[i]]) for i in range(200)]
    assert found["coverage"] == pytest.approx(100 * sum(hits) / 200)
    assert found["low"] == pytest.approx(100 * beta.ppf(0.025, sum(hits), 200 - sum(hits) + 1))
    assert found["high"] == pytest.approx(100 * beta.ppf(0.975, sum(hits) + 1, 200 - sum(hits)))
    assert sum(int(n) * count for n, count in found["sizes"].items()) / 200 == pytest.approx(found["size"])
    own = [hit for hit, label in zip(hits, y, strict=True) if label == 4]
    assert found["emotions"][str(EMOTIONS[4])]["coverage"] == pytest.approx(100 * sum(own) / len(own))
    assert found["emotions"][str(EMOTIONS[3])] == {"images": 0, "coverage": None, "size": None}


def test_what_cannot_be_fitted_is_refused() -> None:
    p, y = drawn(10)
    with pytest.raises(ValueError, match="alpha is 0"):
        Conformal.fit(p, y, 0)
    with pytest.raises(ValueError, match="at least one"):
        Conformal.fit(p[:0], y[:0])
    with pytest.raises(ValueError, match="'raps'; allowed: lac, aps"):
        Conformal.fit(p, y, 0.1, "raps")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no labelled image"):
        measured(np.zeros((0, 8), dtype=bool), np.zeros(0, dtype=int))
