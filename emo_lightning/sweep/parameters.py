"""A sweep's parameters: W&B's distributions, and what is wrong with how one is written."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from emo_lightning.core.errors import UserError


class SweepError(UserError, ValueError):
    """A sweep cannot run as asked; the message names the file, the key, what was found and what is allowed."""


_LOGARITHMIC = ("log_uniform_values", "q_log_uniform_values", "inv_log_uniform_values")
_KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "constant": (("value",), ()),
    "categorical": (("values",), ()),
    "categorical_w_probabilities": (("values", "probabilities"), ()),
    "int_uniform": (("min", "max"), ()),
    "uniform": (("min", "max"), ()),
    "q_uniform": (("min", "max"), ("q",)),
    "log_uniform": (("min", "max"), ()),
    "log_uniform_values": (("min", "max"), ()),
    "q_log_uniform": (("min", "max"), ("q",)),
    "q_log_uniform_values": (("min", "max"), ("q",)),
    "inv_log_uniform": (("min", "max"), ()),
    "inv_log_uniform_values": (("min", "max"), ()),
    "normal": ((), ("mu", "sigma")),
    "q_normal": ((), ("mu", "sigma", "q")),
    "log_normal": ((), ("mu", "sigma")),
    "q_log_normal": ((), ("mu", "sigma", "q")),
    "beta": ((), ("a", "b")),
    "q_beta": ((), ("a", "b", "q")),
}
"""Distribution -> keys that it needs, keys that it may have (docs.wandb.ai: sweep configuration options)."""

DISTRIBUTIONS = tuple(_KEYS)
COUNTABLE = ("constant", "categorical", "int_uniform", "q_uniform")
"""What a grid can go through; W&B's own grid takes the same."""

_DEFAULTS = {"mu": 0, "sigma": 1, "q": 1, "a": 1, "b": 1}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_MOST_VALUES = 1_000_000
"""Of one parameter, in a grid."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep.

    Args:
        name: dotted key of `emo run`, e.g. `des.model.head.fusion` or `vars.seed`.
        distribution: one of `DISTRIBUTIONS`.
        values: of a categorical one; the one value of a constant.
        options: its numbers (min, max, mu, sigma, q, a, b), and `probabilities`.
    """

    name: str
    distribution: str
    values: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def fixed(self) -> bool:
        """Whether it has the same value in every run."""
        return self.distribution == "constant"

    def allows(self, value: object) -> bool:
        """Whether it may have this value; what has no bounds allows any."""
        if self.values:
            return value in self.values
        if self.distribution in ("log_uniform", "q_log_uniform"):
            low, high = (math.exp(self.options[end]) for end in ("min", "max"))
        else:
            low, high = self.options.get("min", -math.inf), self.options.get("max", math.inf)
        return isinstance(value, int | float) and low <= value <= high

    def countable(self) -> tuple[Any, ...]:
        """All its values, in order; only for `COUNTABLE` distributions."""
        if self.values:
            return self.values
        low, high = self.options.get("min", 0), self.options.get("max", 0)
        if not (high - low) / self.options.get("q", 1) < _MOST_VALUES:
            msg = f"{self.name}: more than {_MOST_VALUES:,} values from {low} to {high}"
            raise SweepError(msg)
        match self.distribution:
            case "int_uniform":
                return tuple(range(low, high + 1))
            case "q_uniform":
                # As W&B's own grid: from min, below max, in steps of q.
                step = self.options["q"]
                return tuple(low + n * step for n in range(math.ceil(round((high - low) / step, 9))))
            case _:
                msg = f"{self.name}: a {self.distribution} distribution has no end of values; allowed: {COUNTABLE}"
                raise SweepError(msg)

    def examples(self) -> tuple[Any, ...]:
        """Values that stand for all of them: every listed one, or the ends of a range."""
        if self.values:
            return self.values
        low, high = self.options.get("min", 0.5), self.options.get("max", 0.5)
        match self.distribution:
            case "log_uniform" | "q_log_uniform":
                return tuple(dict.fromkeys(math.exp(end) for end in (low, high)))
            case "inv_log_uniform":
                return tuple(dict.fromkeys(math.exp(-end) for end in (high, low)))
            case "int_uniform" | "q_uniform" | "q_log_uniform_values":
                return (low, high)
            case _:
                return tuple(dict.fromkeys(float(end) for end in (low, high)))


def read_parameter(name: object, body: object, problems: list[str]) -> Parameter | None:
    """One entry under `parameters`; what is wrong with it goes to `problems`, and then there is no parameter."""
    where = f"parameter {name}"
    found: list[str] = []
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        found.append("its name must be a dotted key of `emo run`: letters, digits, '_', '.', '-'")
    if not isinstance(body, dict) or not body:
        found.append(f"found {body!r}; expected a mapping with value, values, or min and max")
    elif "parameters" in body:
        found.append("nested parameters are not understood by `emo run`; write each as a dotted key of its own")
    else:
        found += _wrong(body)
    problems += [f"{where}: {text}" for text in found]
    if found or not isinstance(name, str) or not isinstance(body, dict):
        return None
    kind = _distribution(body)
    assert kind is not None
    optional = {key: body.get(key, _DEFAULTS[key]) for key in _KEYS[kind][1]}
    given = {key: body[key] for key in ("min", "max", "probabilities") if key in body}
    values = (body["value"],) if kind == "constant" else tuple(body.get("values", ()))
    return Parameter(name, kind, values, given | optional)


def _distribution(body: dict[str, Any]) -> str | None:
    """The one that is named, or else W&B's rule for the keys that are there."""
    if "distribution" in body:
        return str(body["distribution"])
    if "value" in body:
        return "constant"
    if "values" in body:
        return "categorical_w_probabilities" if "probabilities" in body else "categorical"
    if {"min", "max"} <= body.keys():
        kinds = {type(body["min"]), type(body["max"])}
        return "int_uniform" if kinds == {int} else "uniform" if kinds == {float} else None
    return None


def _wrong(body: dict[str, Any]) -> list[str]:
    """What is wrong with a parameter's keys and numbers."""
    kind = _distribution(body)
    if kind is None:
        if {"min", "max"} <= body.keys():
            return [
                f"min {body['min']!r} and max {body['max']!r}: write both as whole numbers or both with a decimal point, or name a "
                "distribution"
            ]
        return [f"has {', '.join(body) or 'nothing'}; expected value, values, or min and max, or a distribution"]
    if kind not in _KEYS:
        return [f"distribution {kind!r} is unknown{did_you_mean(kind, DISTRIBUTIONS)}; allowed: {', '.join(DISTRIBUTIONS)}"]
    needed, optional = _KEYS[kind]
    found = [f"{kind} needs {key}" for key in needed if key not in body]
    allowed = (*needed, *optional, "distribution")
    found += [
        f"unknown key {key!r}{did_you_mean(key, allowed)}; {kind} allows {', '.join(allowed)}"
        for key in body
        if key not in allowed
    ]
    numbers = {
        key: body[key] for key in (*needed, *optional) if key in body and key not in ("value", "values", "probabilities")
    }
    wrong = {key: value for key, value in numbers.items() if isinstance(value, bool) or not isinstance(value, int | float)}
    found += [f"{key} is {value!r}; expected a number{_decimal_point(value)}" for key, value in wrong.items()]
    return found or _wrong_numbers(kind, body, numbers) + _wrong_values(kind, body)


def _wrong_numbers(kind: str, body: dict[str, Any], numbers: dict[str, Any]) -> list[str]:
    found = [f"{key} is {value}; expected a finite number" for key, value in numbers.items() if not math.isfinite(value)]
    found += [
        f"{key} is {numbers[key]}; expected more than 0"
        for key in ("sigma", "q", "a", "b")
        if key in numbers and numbers[key] <= 0
    ]
    if "min" in numbers and not numbers["min"] < numbers["max"]:
        found.append(f"bounds the wrong way round: min {numbers['min']} is not below max {numbers['max']}")
    if kind in _LOGARITHMIC and numbers["min"] <= 0:
        found.append(f"min is {numbers['min']}; {kind} needs more than 0")
    if kind == "int_uniform" and not all(isinstance(end, int) for end in numbers.values()):
        found.append(f"min {body['min']!r} and max {body['max']!r}; int_uniform needs whole numbers")
    return found


def _wrong_values(kind: str, body: dict[str, Any]) -> list[str]:
    if "values" not in body:
        return []
    values = body["values"]
    if not isinstance(values, list) or not values:
        return [f"values is {values!r}; expected a list with at least one value"]
    # repr, as 1 == True == 1.0.
    twice = [value for n, value in enumerate(values) if repr(value) in map(repr, values[:n])]
    found = [f"values holds {value!r} twice" for value in twice]
    shares = body.get("probabilities")
    if kind == "categorical_w_probabilities":
        numeric = isinstance(shares, list) and all(isinstance(s, int | float) and s >= 0 for s in shares)
        if not numeric or len(shares) != len(values) or not math.isclose(sum(shares), 1):  # type: ignore[arg-type]
            found.append(f"probabilities is {shares!r}; expected {len(values)} numbers that sum to 1")
    return found


def did_you_mean(wrong: object, allowed: Iterable[str]) -> str:
    """`; did you mean …?` where something near is allowed, else nothing."""
    near = difflib.get_close_matches(str(wrong), list(dict.fromkeys(allowed)), 3, 0.75)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _decimal_point(value: object) -> str:
    try:
        float(str(value))
    except ValueError:
        return ""
    return f" (YAML takes {value} for text: write a decimal point, as in 1.0e-4)"
