"""Which values a run gets: through the grid in order, or drawn at random from a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from emo_lightning.sweep.parameters import Parameter
from emo_lightning.sweep.values import TrialValues, values_digest

_TRIES = 200


class Search(Protocol):
    """Where the next run's values come from."""

    total: int | None
    """Runs that it will ask for; None where that is not known."""

    def ask(self) -> TrialValues | None:
        """The next run's values, or None at the end."""
        ...

    def tell(self, values: TrialValues, metric: float | None) -> None:
        """How a run ended; None is a failure."""
        ...


class Grid:
    """Every combination, the last parameter fastest."""

    def __init__(self, parameters: Sequence[Parameter], count: int | None) -> None:
        lists = [p.countable() for p in parameters]
        whole = math.prod(map(len, lists))
        self.total: int | None = whole if count is None else min(count, whole)
        names = [p.name for p in parameters]
        self._runs = (dict(zip(names, each, strict=True)) for each in itertools.islice(itertools.product(*lists), self.total))

    def ask(self) -> TrialValues | None:
        """The next combination."""
        return next(self._runs, None)

    def tell(self, values: TrialValues, metric: float | None) -> None:
        """A grid does not care."""


class Random:
    """Independent draws. The n-th is a function of (seed, n) alone; one that has been there is drawn anew."""

    def __init__(self, parameters: Sequence[Parameter], count: int, seed: int) -> None:
        self.total: int | None = count
        self._draws = self._distinct(parameters, count, seed)

    def ask(self) -> TrialValues | None:
        """The next draw."""
        return next(self._draws, None)

    def tell(self, values: TrialValues, metric: float | None) -> None:
        """Draws do not depend on results."""

    def _distinct(self, parameters: Sequence[Parameter], count: int, seed: int) -> Iterator[TrialValues]:
        seen: set[str] = set()
        for n in range(count):
            rng = np.random.default_rng([seed, n])
            for _ in range(_TRIES):
                values = {p.name: draw(p, rng) for p in parameters}
                if (mark := values_digest(values)) not in seen:
                    seen.add(mark)
                    yield values
                    break
            else:
                # A small space is used up: what was asked for is more than there is.
                self.total = n
                return


def draw(parameter: Parameter, rng: np.random.Generator) -> object:
    """One value of a parameter, as W&B defines its distributions (docs.wandb.ai: sweep configuration options)."""
    o = parameter.options
    match parameter.distribution:
        case "constant":
            return parameter.values[0]
        case "categorical" | "categorical_w_probabilities":
            return parameter.values[int(rng.choice(len(parameter.values), p=o.get("probabilities")))]
        case "int_uniform":
            return int(rng.integers(o["min"], o["max"], endpoint=True))
        case "uniform" | "q_uniform":
            x = rng.uniform(o["min"], o["max"])
        case "log_uniform" | "q_log_uniform":
            x = math.exp(rng.uniform(o["min"], o["max"]))
        case "log_uniform_values" | "q_log_uniform_values":
            x = math.exp(rng.uniform(math.log(o["min"]), math.log(o["max"])))
        case "inv_log_uniform":
            x = math.exp(-rng.uniform(o["min"], o["max"]))
        case "inv_log_uniform_values":
            x = 1 / math.exp(rng.uniform(-math.log(o["max"]), -math.log(o["min"])))
        case "normal" | "q_normal":
            x = rng.normal(o["mu"], o["sigma"])
        case "log_normal" | "q_log_normal":
            x = rng.lognormal(o["mu"], o["sigma"])
        case "beta" | "q_beta":
            x = rng.beta(o["a"], o["b"])
        case other:
            msg = f"{parameter.name}: distribution {other!r} is unknown"
            raise ValueError(msg)
    return quantized(float(x), o["q"]) if "q" in o else float(x)


def quantized(x: float, q: float) -> float | int:
    """The nearest multiple of q; whole where q is."""
    steps = round(x / q)
    # Through decimal text: 3 * 0.1 is 0.30000000000000004.
    return steps * q if isinstance(q, int) else float(f"{steps * q:.12g}")
