"""Bayesian search through Optuna, which the extra `[sweep]` brings."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emo_lightning.sweep.parameters import Parameter, SweepError
from emo_lightning.sweep.values import TrialValues, values_digest

if TYPE_CHECKING:
    import optuna


class Bayes:
    """Optuna's tree-structured Parzen estimator over what has been measured.

    Alone (`jobs` 1) and with a seed it asks for the same runs each time.

    Args:
        parameters: of the sweep.
        count: runs in all; what is finished counts among them, and is all there is where it is more.
        seed: of the estimator.
        maximize: whether more is better.
        jobs: runs at a time; with several, those under way count as poor, so that their neighbourhood is not asked for twice.
        earlier: values and metric of runs that are finished (None: not finished, and asked for first).

    Raises:
        SweepError: Optuna is not installed.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        count: int,
        seed: int,
        maximize: bool,
        jobs: int,
        earlier: Sequence[tuple[TrialValues, float | None]] = (),
    ) -> None:
        try:
            import optuna
        except ImportError:
            msg = "method: bayes needs Optuna, which is not installed: pip install 'emo-lightning[sweep]' (grid and random do not)"
            raise SweepError(msg) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._states = optuna.trial.TrialState
        self._fixed = {p.name: p.values[0] for p in parameters if p.fixed}
        self._space = {p.name: _distribution(p) for p in parameters if not p.fixed}
        # Optuna compares categories as they are and keeps plain ones alone: a list or a mapping stands there as JSON.
        self._decoded = {p.name: {_plain(v): v for v in p.values} for p in parameters if p.values}
        sampler = optuna.samplers.TPESampler(seed=seed + len(earlier), constant_liar=jobs > 1)
        self._study = optuna.create_study(sampler=sampler, direction="maximize" if maximize else "minimize")
        # Of a small space it may ask for the same run twice.
        self._open: dict[str, list[Any]] = {}
        self._asked = 0
        for values, metric in earlier:
            plain = {
                name: _plain(value) if name in self._decoded else value for name, value in values.items() if name in self._space
            }
            if metric is None:
                self._study.enqueue_trial(plain)
            else:
                self._study.add_trial(optuna.trial.create_trial(params=plain, distributions=self._space, value=metric))
                self._asked += 1
        self.total: int | None = max(count, self._asked)

    def ask(self) -> TrialValues | None:
        """The next run's values."""
        if self.total is not None and self._asked >= self.total:
            return None
        self._asked += 1
        trial = self._study.ask(self._space)
        drawn = {name: self._decoded[name][value] if name in self._decoded else value for name, value in trial.params.items()}
        values = self._fixed | drawn
        self._open.setdefault(values_digest(values), []).append(trial)
        return values

    def tell(self, values: TrialValues, metric: float | None) -> None:
        """How a run ended."""
        for trial in self._open.pop(values_digest(values), []):
            if metric is None:
                self._study.tell(trial, state=self._states.FAIL)
            else:
                self._study.tell(trial, metric)


def _distribution(parameter: Parameter) -> optuna.distributions.BaseDistribution:
    import math

    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = parameter.options.get("min"), parameter.options.get("max")
    match parameter.distribution:
        case "categorical":
            return CategoricalDistribution([_plain(value) for value in parameter.values])
        case "int_uniform":
            return IntDistribution(low, high)  # type: ignore[arg-type]
        case "q_uniform":
            return FloatDistribution(low, high, step=parameter.options["q"])  # type: ignore[arg-type]
        case "uniform":
            return FloatDistribution(low, high)  # type: ignore[arg-type]
        case "log_uniform_values":
            return FloatDistribution(low, high, log=True)  # type: ignore[arg-type]
        case "log_uniform":
            return FloatDistribution(math.exp(low), math.exp(high), log=True)  # type: ignore[arg-type]
        case other:
            msg = f"parameter {parameter.name}: {other} has no counterpart in Optuna"
            raise SweepError(msg)


def _plain(value: object) -> str | int | float | None:
    """A choice as Optuna keeps one: lists and mappings as JSON."""
    return value if value is None or isinstance(value, str | int | float) else json.dumps(value)
