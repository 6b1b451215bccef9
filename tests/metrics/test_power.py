"""Power of a paired t-test, against simulated studies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from emo_lightning.core.errors import InputError
from emo_lightning.metrics.power import paired_t_power, smallest_effect


@pytest.mark.parametrize(
    ("effect", "sd", "pairs", "alpha"), [(3.0, 3.0, 15, 0.0125), (1.0, 2.0, 5, 0.05), (-2.0, 3.0, 8, 0.05)]
)
def test_power_is_the_share_of_studies_that_find_it(effect: float, sd: float, pairs: int, alpha: float) -> None:
    studies = np.random.default_rng(0).normal(effect, sd, (20_000, pairs))
    found = (ttest_1samp(studies, 0, axis=1).pvalue < alpha).mean()
    assert paired_t_power(effect, sd, pairs, alpha) == pytest.approx(found, abs=0.012)


def test_without_an_effect_it_is_the_level() -> None:
    assert paired_t_power(0.0, 2.0, 6, 0.01) == pytest.approx(0.01)


@pytest.mark.parametrize("pairs", [3, 5, 60])
def test_the_smallest_effect_has_the_power_that_is_asked(pairs: int) -> None:
    effect = smallest_effect(2.5, pairs, power=0.9, alpha=0.0125)
    assert paired_t_power(effect, 2.5, pairs, 0.0125) == pytest.approx(0.9)


def test_what_is_as_good_as_certain_is_one() -> None:
    assert paired_t_power(3.0, 1e-9, 15) == pytest.approx(1.0)


@pytest.mark.parametrize(("sd", "pairs", "alpha"), [(0.0, 15, 0.05), (float("nan"), 15, 0.05), (2.0, 2, 0.05), (2.0, 15, 0.0)])
def test_a_value_outside_of_its_range_is_named(sd: float, pairs: int, alpha: float) -> None:
    with pytest.raises(InputError, match=r"^(sd|pairs|alpha)="):
        paired_t_power(3.0, sd, pairs, alpha)
    with pytest.raises(InputError, match=r"^(sd|pairs|alpha)="):
        smallest_effect(sd, pairs, alpha=alpha)
    with pytest.raises(InputError, match="power=1"):
        smallest_effect(2.0, 15, power=1)
    with pytest.raises(InputError, match="effect=inf"):
        paired_t_power(float("inf"), 2.0, 15)
