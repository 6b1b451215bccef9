"""Wilson's interval and Student's, against his formula written again and values from elsewhere."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from emo_lightning.core.intervals import CONFIDENCE_LEVEL, confidence_level, student_margin, wilson


def by_formula(right: int, n: int) -> tuple[float, float]:
    """Wilson (1927), the roots of (p − q)² = z² q (1 − q) / n in q."""
    z2, p = 1.959963984540054**2, right / n
    half = math.sqrt(p * (1 - p) * z2 / n + z2 * z2 / (4 * n * n))
    return (p + z2 / (2 * n) - half) / (1 + z2 / n), (p + z2 / (2 * n) + half) / (1 + z2 / n)


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 9), (333, 1000), (1, 100_000)])
def test_it_is_wilsons_formula(right: int, n: int) -> None:
    assert CONFIDENCE_LEVEL == 0.95
    low, high = wilson(right, n)
    assert (low, high) == pytest.approx(by_formula(right, n), abs=1e-12)
    assert 0 <= low <= right / n <= high <= 1


def test_known_value_and_no_trial() -> None:
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


def test_results_made_before_call_it_level_as_a_share_or_in_percent() -> None:
    """`table5.json` had 0.95 and `table6.json` 95, under one name that is also an intensity's."""
    assert [confidence_level(found) for found in ({"confidence_level": 0.9}, {"level": 0.9}, {"level": 90})] == [0.9] * 3
    assert confidence_level({}) == CONFIDENCE_LEVEL


def test_scipy_is_loaded_only_when_it_is_asked() -> None:
    code = "import sys, emo_lightning.core.intervals; print('scipy' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("values", [2, 3, 30])
def test_students_margin_is_that_of_his_test(values: int) -> None:
    given = np.random.default_rng(values).normal(2.0, 3.0, values)
    low, high = ttest_1samp(given, 0.0).confidence_interval(CONFIDENCE_LEVEL)
    half = student_margin(float(given.std(ddof=1)) / math.sqrt(values), values)
    assert (given.mean() - half, given.mean() + half) == pytest.approx((low, high))
