"""Confidence intervals that both packages need."""

from __future__ import annotations

from collections.abc import Mapping

CONFIDENCE_LEVEL = 0.95
"""Confidence level of every interval in the project, as a share."""


def confidence_level(result: Mapping[str, object]) -> float:
    """Of the intervals in a result, as a share; files made before call it `level`, some of them in percent.

    Args:
        result: with `confidence_level` (or `level`) beside its intervals.
    """
    found = result.get("confidence_level", result.get("level"))
    if not isinstance(found, int | float):
        return CONFIDENCE_LEVEL
    return found / 100 if found > 1 else float(found)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a share at `CONFIDENCE_LEVEL` (Wilson 1927), by scipy.

    Unlike a bootstrap's it does not vanish where all trials succeed, or none.

    Args:
        successes: 0 to `trials`.
        trials: how many there were.

    Returns:
        (low, high), each 0–1; (0, 1) without a trial.
    """
    if trials == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest

    low, high = binomtest(successes, trials).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    return float(low), float(high)


def student_margin(error: float, values: int) -> float:
    """Half of Student's interval of a mean at `CONFIDENCE_LEVEL`, by scipy.

    Args:
        error: standard error of the mean.
        values: behind the mean, 2 or more.
    """
    from scipy.stats import t

    return float(t.ppf((1 + CONFIDENCE_LEVEL) / 2, values - 1)) * error
