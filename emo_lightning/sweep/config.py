"""A sweep's file, in W&B's own format: read, and checked as far as the file alone can tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from emo_lightning.core.files import read_yaml
from emo_lightning.experiment.files import find_file, shipped_experiments
from emo_lightning.sweep.parameters import COUNTABLE, Parameter, SweepError, did_you_mean, read_parameter
from emo_lightning.sweep.values import TrialValues, as_text

__all__ = ["Sweep", "SweepError", "beside", "load_sweep", "read_sweep"]

Method = Literal["grid", "random", "bayes"]
SWEEP_COMMAND = ["${env}", "emo", "sweep", "--trial", "${program}", "${args_json}"]
"""What W&B's agent starts for each run. JSON, as its `${args}` writes null and small numbers in a way that YAML does not read back."""

_KEYS = ("program", "method", "metric", "parameters", "command", "name", "description", "project", "entity", "run_cap")
_REFUSED = {
    "early_terminate": "a run's metric is written once, at its end: there is nothing to stop early on",
    "controller": "W&B's local controller is not used; `emo sweep --local` needs no server",
}
_ARGUMENTS = ("${args_json}", "${args}")
_BAYES = (*COUNTABLE, "uniform", "log_uniform", "log_uniform_values")
"""Distributions that both W&B's search and Optuna's have."""


@dataclass(frozen=True)
class Sweep:
    """A sweep whose file has no fault of its own.

    Args:
        path: of the file.
        name: of the sweep, and of its folder below `runs/`.
        program: the experiment that every run starts.
        method: grid, random or bayes.
        metric: what the runs are ordered by, as STAGE/METRIC.
        maximize: whether more is better.
        target: the sweep ends when a run reaches it; None is never.
        parameters: in the file's order.
        run_cap: runs at most; None is no limit.
        raw: the file's content, for W&B.
    """

    path: Path
    name: str
    program: Path
    method: Method
    metric: str
    maximize: bool
    target: float | None
    parameters: tuple[Parameter, ...]
    run_cap: int | None
    raw: dict[str, Any] = field(repr=False)

    @property
    def varied(self) -> tuple[Parameter, ...]:
        """Parameters that differ between runs."""
        return tuple(p for p in self.parameters if not p.fixed)


def load_sweep(path: str | Path, given: TrialValues | None = None) -> Sweep:
    """The sweep.

    Args:
        path: of its file.
        given: values by key; a list for a key that the sweep varies takes the place of the file's values.

    Raises:
        SweepError: with everything that is wrong with the file.
    """
    sweep, problems = read_sweep(path, given)
    if sweep is None or problems:
        raise SweepError(f"{path}: " + "; ".join(problems))
    return sweep


def read_sweep(path: str | Path, given: TrialValues | None = None) -> tuple[Sweep | None, list[str]]:
    """The sweep, as far as it can be read (None: not at all), and all that is wrong with its file; the arguments are `load_sweep`'s.

    Raises:
        SweepError: there is no file, or it holds no YAML mapping.
    """
    path = find_file(path)
    raw = _narrowed(read_yaml(path, SweepError, near=sorted(str(p) for p in path.parent.glob("*.yaml"))), given or {})
    problems = [
        f"unknown key {key!r}{did_you_mean(key, _KEYS)}; allowed: {', '.join(_KEYS)}"
        for key in raw
        if key not in _KEYS and key not in _REFUSED
    ]
    problems += [f"{key}: {reason}" for key, reason in _REFUSED.items() if key in raw]
    program = _program(raw, problems)
    method = raw.get("method")
    if method not in ("grid", "random", "bayes"):
        problems.append(
            f"{_found('method', raw)}{did_you_mean(method, ('grid', 'random', 'bayes'))}; allowed: grid, random, bayes"
        )
    metric = _metric(raw, problems)
    parameters = _parameters(raw, problems)
    problems += [text for p in parameters for text in _unsuited(p, method)]
    _check_command(raw, problems)
    cap = raw.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        problems.append(f"{_found('run_cap', raw)}; expected a whole number, at least 1")
    for key in ("name", "project", "entity", "description"):
        if key in raw and not isinstance(raw[key], str):
            problems.append(f"{_found(key, raw)}; expected text")
    if isinstance(raw.get("name"), str) and (not raw["name"] or "/" in raw["name"]):
        problems.append(f"{_found('name', raw)}; it is the name of a folder: no '/'")
    if program is None or not parameters:
        return None, problems
    name, goal, target = metric
    sweep = Sweep(
        path=path,
        name=raw.get("name", path.stem),
        program=program,
        method=method,  # type: ignore[arg-type]  # any other is a problem
        metric=name,
        maximize=goal == "maximize",
        target=target,
        parameters=tuple(parameters),
        run_cap=cap,
        raw=raw,
    )
    return sweep, problems


def _found(key: str, raw: Mapping[str, object]) -> str:
    """What stands at a key: a text in quotes, all else as YAML writes it."""
    if key not in raw:
        return f"{key} is missing"
    return f"{key} is {raw[key]!r}" if isinstance(raw[key], str) else f"{key} is {as_text(raw[key])}"


def _narrowed(raw: dict[str, Any], given: TrialValues) -> dict[str, Any]:
    """The content with fewer (or other) values of what it varies."""
    bodies = raw.get("parameters")
    if not isinstance(bodies, dict):
        return raw
    varied = {key for key, body in bodies.items() if isinstance(body, dict) and "value" not in body}
    lists = {key: value for key, value in given.items() if key in varied and isinstance(value, list)}
    return {**raw, "parameters": {**bodies, **{k: {"value": v[0]} if len(v) == 1 else {"values": v} for k, v in lists.items()}}}


def beside(sweep: Sweep, given: TrialValues) -> TrialValues:
    """Those of the given values that the sweep does not hold itself: the same for every run."""
    held = {p.name for p in sweep.parameters}
    return {key: value for key, value in given.items() if key not in held}


def _program(raw: dict[str, Any], problems: list[str]) -> Path | None:
    """Where the experiment stands: as written, else below this package's own checkout."""
    named = raw.get("program")
    if not isinstance(named, str) or not named:
        problems.append(
            "program is missing: name the experiment that each run starts, e.g. program: experiments/ablate_head.yaml"
        )
        return None
    found = locate(named)
    if found is None:
        near = [f"experiments/{p.name}" for p in shipped_experiments()]
        problems.append(f"program: no such file {named!r}{did_you_mean(named, near)}; there are: {', '.join(near)}")
    return found


def locate(program: str) -> Path | None:
    """The experiment's file, looked for from the working directory and from where this package stands."""
    found = find_file(program)
    return found if found.is_file() else None


def _metric(raw: dict[str, Any], problems: list[str]) -> tuple[str, str, float | None]:
    metric = raw.get("metric")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        why = "bayes has nothing to search for" if raw.get("method") == "bayes" else "runs cannot be ordered"
        problems.append(
            f"{_found('metric', raw)}: {why} without one; expected e.g. metric: {{name: probe/val/accuracy, goal: maximize}}"
        )
        return "", "minimize", None
    allowed = ("name", "goal", "target")
    problems += [
        f"metric: unknown key {k!r}{did_you_mean(k, allowed)}; allowed: {', '.join(allowed)}"
        for k in metric
        if k not in allowed
    ]
    goal, target = metric.get("goal", "minimize"), metric.get("target")
    if goal not in ("minimize", "maximize"):
        problems.append(
            f"metric: {_found('goal', metric)}{did_you_mean(goal, ('minimize', 'maximize'))}; allowed: minimize (W&B's default), maximize"
        )
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        problems.append(f"metric: {_found('target', metric)}; expected a number")
    return metric["name"], str(goal), target


def _parameters(raw: dict[str, Any], problems: list[str]) -> list[Parameter]:
    bodies = raw.get("parameters")
    if not isinstance(bodies, dict) or not bodies:
        problems.append(f"{_found('parameters', raw)}; expected a mapping from keys of `emo run` to their values")
        return []
    read = [read_parameter(name, body, problems) for name, body in bodies.items()]
    found = [p for p in read if p is not None]
    if len(found) == len(bodies) and all(p.fixed for p in found):
        problems.append("parameters: every one has a single value, so there is nothing to compare")
    return found


def _unsuited(parameter: Parameter, method: object) -> list[str]:
    """Distributions that the method cannot go through."""
    where = f"parameter {parameter.name}: a {parameter.distribution} distribution"
    if method == "grid" and parameter.distribution not in COUNTABLE:
        return [
            f"{where} under method: grid: a grid over a continuous range has no end; list its values, or use random or bayes"
        ]
    if method == "bayes" and parameter.distribution not in _BAYES:
        return [f"{where} under method: bayes; allowed: {', '.join(_BAYES)}"]
    return []


def _check_command(raw: dict[str, Any], problems: list[str]) -> None:
    """W&B's default would run the experiment's YAML with Python."""
    command = raw.get("command")
    if not isinstance(command, list) or not all(isinstance(word, str) for word in command):
        problems.append(f"{_found('command', raw)}; expected {SWEEP_COMMAND}")
        return
    # W&B's agent starts whatever stands here: a file of someone else's must not choose it.
    if [word for word in command if word != "${env}"] not in [
        ["emo", "sweep", "--trial", "${program}", args] for args in _ARGUMENTS
    ]:
        problems.append(f"command is {command}: W&B's agent would run it; allowed: {SWEEP_COMMAND}, or with ${{args}}")
