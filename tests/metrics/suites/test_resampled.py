"""Metrics over weights equal the libraries' on the items repeated as often as the weights say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, roc_auc_score

from emo_lightning.metrics.bootstrap import draws
from emo_lightning.metrics.suites import resampled

rng = np.random.default_rng(0)
N = 60
TRUTH = rng.choice(["awe", "fear", "joy"], N).tolist()
SAID = rng.choice(["awe", "fear", "joy", "unknown"], N).tolist()
RIGHT = np.array(TRUTH) == np.array(SAID)
SURE = rng.integers(0, 11, N) / 10
OTHER = SURE + rng.normal(0, 0.4, N)
OF = rng.random(N) < 0.8
WEIGHTS = draws([str(n) for n in range(N)], 20, 0)


def repeated(values: object, resample: int) -> list[object]:
    """The items that count, each as often as it does in this resample."""
    times = np.where(OF, WEIGHTS[:, resample], 0).astype(int)
    return list(np.repeat(np.asarray(values, dtype=object), times))


def test_equal_to_the_libraries() -> None:
    found = {
        "accuracy": resampled.share(RIGHT, OF)(WEIGHTS),
        "f1": resampled.weighted_f1(TRUTH, SAID, OF)(WEIGHTS),
        "auroc": resampled.auroc(SURE, RIGHT, OF)(WEIGHTS),
        "brier": resampled.brier(SURE, RIGHT, OF)(WEIGHTS),
        "plcc": resampled.correlation(SURE, OTHER, OF, ranks=False)(WEIGHTS),
        "srcc": resampled.correlation(SURE, OTHER, OF, ranks=True)(WEIGHTS),
    }
    for n in range(WEIGHTS.shape[1]):
        truth, said, right = repeated(TRUTH, n), repeated(SAID, n), np.array(repeated(RIGHT, n), dtype=float)
        sure, other = np.array(repeated(SURE, n), dtype=float), np.array(repeated(OTHER, n), dtype=float)
        assert found["accuracy"][n] == pytest.approx(100 * right.mean())
        assert found["f1"][n] == pytest.approx(100 * f1_score(truth, said, average="weighted", zero_division=0))
        assert found["auroc"][n] == pytest.approx(100 * roc_auc_score(right, sure))
        assert found["brier"][n] == pytest.approx(100 * ((sure - right) ** 2).mean())
        assert found["plcc"][n] == pytest.approx(pearsonr(sure, other).statistic)
        assert found["srcc"][n] == pytest.approx(spearmanr(sure, other).statistic)


def test_a_confidence_of_one_is_in_no_half_open_bin() -> None:
    right, every, once = np.array([False, False]), np.array([True, True]), np.ones((2, 1))
    # Both are sure and wrong: an error of 100, of which half is seen.
    assert resampled.half_open_ece(np.array([1.0, 0.95]), right, every, 10)(once)[0] == pytest.approx(47.5)
    assert resampled.ece(np.array([1.0, 0.95]), right, every, 10)(once)[0] == pytest.approx(97.5)
    assert resampled.half_open_ece(np.array([0.1, 0.2]), right, every, 10)(once)[0] == pytest.approx(15.0)


def test_nothing_to_measure_has_no_value() -> None:
    none, once = np.zeros(N, dtype=bool), np.ones((N, 3))
    for metric in (
        resampled.share(RIGHT, none),
        resampled.auroc(SURE, RIGHT, none),
        resampled.correlation(SURE, OTHER, none, ranks=True),
    ):
        assert resampled.estimate(metric, once, N) == {"value": None, "low": None, "high": None}
    assert np.isnan(resampled.correlation(np.full(N, 0.3), OTHER, OF, ranks=False)(once)).all()


def test_a_macro_mean_weighs_no_items() -> None:
    first, second = np.arange(N) < 10, np.arange(N) >= 10
    right = np.arange(N) < 10
    assert resampled.mean_of([resampled.share(right, first), resampled.share(right, second)])(np.ones((N, 1)))[0] == 50.0
