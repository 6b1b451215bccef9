"""Confidence intervals that both packages need."""

from __future__ import annotations

LEVEL = 0.95
"""Confidence level of every interval in the project, as a share."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval of a share at `LEVEL` (Wilson 1927), by scipy.

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

    low, high = binomtest(successes, trials).proportion_ci(LEVEL, method="wilson")
    return float(low), float(high)
