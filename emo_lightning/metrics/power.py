"""How likely a paired t-test is to see a difference: what a study can find, worked out before it is run."""

from __future__ import annotations

import math

from emo_lightning.core.errors import InputError

ALPHA = 0.05
"""Significance level, two-sided, where none is given."""


def paired_t_power(effect: float, sd: float, pairs: int, alpha: float = ALPHA) -> float:
    """Probability (0–1) that a two-sided paired t-test finds a difference.

    Args:
        effect: true mean of the differences, in the unit of `sd`.
        sd: standard deviation of the differences, above 0.
        pairs: at least 3.
        alpha: significance level.

    Raises:
        InputError: a value is outside of its range.
    """
    from scipy.stats import nct, t

    _check(sd, pairs, alpha)
    if not math.isfinite(effect):
        msg = f"effect={effect}; expected a finite number"
        raise InputError(msg)
    critical = t.ppf(1 - alpha / 2, pairs - 1)
    # What is as good as certain; with far more, SciPy gives NaN.
    shift = min(abs(effect) / sd * math.sqrt(pairs), 1e4)
    wrong_side = float(nct.cdf(-critical, pairs - 1, shift))
    # SciPy gives NaN for some that are smaller than 1e-20.
    return float(nct.sf(critical, pairs - 1, shift)) + (0.0 if math.isnan(wrong_side) else wrong_side)


def smallest_effect(sd: float, pairs: int, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The mean difference that a two-sided paired t-test finds with this probability, in the unit of `sd`.

    Args:
        sd: standard deviation of the differences, above 0.
        pairs: at least 3.
        power: above `alpha`, below 1.
        alpha: significance level.

    Raises:
        InputError: a value is outside of its range.
    """
    from scipy.optimize import brentq

    _check(sd, pairs, alpha)
    if not alpha < power < 1:
        msg = f"power={power}; expected more than alpha, {alpha}, and less than 1"
        raise InputError(msg)
    above = sd
    while paired_t_power(above, sd, pairs, alpha) < power:
        above *= 1.5
    return float(brentq(lambda effect: paired_t_power(effect, sd, pairs, alpha) - power, 0, above))


def _check(sd: float, pairs: int, alpha: float) -> None:
    if not (math.isfinite(sd) and sd > 0):
        msg = f"sd={sd}; expected a finite number above 0"
        raise InputError(msg)
    if pairs < 3:
        msg = f"pairs={pairs}; expected at least 3"
        raise InputError(msg)
    if not 0 < alpha < 1:
        msg = f"alpha={alpha}; expected a number between 0 and 1"
        raise InputError(msg)
