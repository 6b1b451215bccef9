"""Whether a sweep's parameters and metric are what its experiment takes and writes: no network, nothing is run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from emo_lightning.experiment.arguments import argument_keys, has_argument, problems
from emo_lightning.experiment.files import ExperimentError, read_experiment
from emo_lightning.experiment.resolve import Experiment, load_experiment
from emo_lightning.experiment.stage import Stage
from emo_lightning.sweep.config import Sweep, beside, read_sweep
from emo_lightning.sweep.metrics import promised
from emo_lightning.sweep.parameters import Parameter, did_you_mean
from emo_lightning.sweep.values import TrialValues, as_text

_WIDE = ("model", "data", "trainer")


def lint(path: str | Path, fixed: TrialValues | None = None) -> tuple[Sweep | None, list[str]]:
    """The sweep, and all that is wrong with it.

    Args:
        path: of the sweep's file.
        fixed: further values of every run, as the command line gives them; a list narrows a key that the sweep varies.

    Raises:
        SweepError: there is no file, or it holds no YAML mapping.
    """
    sweep, found = read_sweep(path, fixed)
    if sweep is None:
        return None, found
    try:
        base = load_experiment(sweep.program)
        before = [text for stage in base.stages for text in _wrong(stage)]
    except ExperimentError as error:
        return sweep, [*found, f"program: {error}"]
    found += [f"program: {sweep.program}: {text}" for text in before]
    varied = {p.name for p in sweep.varied}
    found += [
        f"--{name} {as_text(value)}: the sweep itself varies this key; a value for every run leaves nothing to vary; to narrow it, "
        f"give a list, e.g. --{name} '[{as_text(value)}]'"
        for name, value in (fixed or {}).items()
        if name in varied and not isinstance(value, list)
    ]
    extra = [Parameter(name, "constant", (value,)) for name, value in beside(sweep, fixed or {}).items()]
    for parameter in (*sweep.parameters, *extra):
        found += [f"parameter {parameter.name}: {text}" for text in _parameter(sweep, base, parameter, before)]
    return sweep, found + (_metric(sweep, base, extra) if sweep.metric else [])


def _wrong(stage: Stage) -> list[str]:
    return [f"stage {stage.name!r} ({stage.kind}): {text}" for text in problems(stage)]


def _parameter(sweep: Sweep, base: Experiment, parameter: Parameter, before: list[str]) -> list[str]:
    """What is wrong with one parameter's key, or with its values at the place that they reach."""
    found: list[str] = []
    reached = False
    for value in parameter.examples():
        try:
            stages = applied(sweep, base, parameter.name, value)
        except ExperimentError as error:
            return [str(error)]
        changed = [new for new, old in zip(stages, base.stages, strict=True) if new.config != old.config]
        reached = reached or bool(changed)
        wrong = [text for stage in changed for text in _wrong(stage)]
        found += [f"value {as_text(value)}: {text}" for text in wrong if text not in before]
    # Its values may all be what stands there already.
    if not reached and not _reaches(sweep, base, parameter.name):
        return ["no key of any stage refers to it: all runs would be the same"]
    return found


def _reaches(sweep: Sweep, base: Experiment, key: str) -> bool:
    """Whether anything changes with it."""
    try:
        changed = applied(sweep, base, key, "a value that nothing else has")
    except ExperimentError:
        # A variable that chooses among others by name.
        return True
    return any(stage.config != old.config for stage, old in zip(changed, base.stages, strict=True))


def applied(sweep: Sweep, base: Experiment, key: str, value: object) -> list[Stage]:
    """The experiment's stages with one key changed, as `emo run --KEY VALUE` would.

    Raises:
        ExperimentError: nothing takes the key; with what is near.
    """
    head, _, rest = key.partition(".")
    if head == "vars" and rest:
        variables = [f"vars.{name}" for name in (read_experiment(sweep.program).get("vars") or {})]
        if ".".join(key.split(".")[:2]) not in variables:
            msg = f"{sweep.program} has no such variable{did_you_mean(key, variables)}; allowed: {', '.join(variables)}"
            raise ExperimentError(msg)
        return load_experiment(sweep.program, [(key, as_text(value))]).stages
    stages = base.stages
    # Here with what is near; `load_experiment` would leave a stage's own key to the check of its arguments.
    own = any(stage.name == head and rest and has_argument(stage.kind, rest) for stage in stages)
    wide = any(has_argument(stage.kind, key) for stage in stages)
    named = any(stage.name == head for stage in stages)
    if not (own or (wide and (not named or head in _WIDE))):
        near = list(_all_keys(stages))
        msg = (
            f"no stage of {sweep.program} takes this key{did_you_mean(key, near)}; allowed: vars.*, STAGE.* with STAGE one of "
            f"{', '.join(stage.name for stage in stages)}, or an argument of the stages (emo run {sweep.program} --print_config)"
        )
        raise ExperimentError(msg)
    return load_experiment(sweep.program, [(key, as_text(value))]).stages


def _all_keys(stages: list[Stage]) -> Iterator[str]:
    for stage in stages:
        for key in argument_keys(stage.kind):
            yield key
            yield f"{stage.name}.{key}"


def _metric(sweep: Sweep, base: Experiment, extra: list[Parameter]) -> list[str]:
    """A metric that no stage writes."""
    stages = base.stages
    # A set that is given for all runs is evaluated too.
    for parameter in extra:
        try:
            changed = {s.name: s for s in applied(sweep, base, parameter.name, parameter.values[0])}
        except ExperimentError:
            continue
        stages = [
            changed[s.name] if changed[s.name].config != b.config else s for s, b in zip(stages, base.stages, strict=True)
        ]
    names: list[str] = []
    for stage in stages:
        known, others = promised(stage)
        names += known
        if others and sweep.metric.startswith(f"{stage.name}/"):
            return []
    if sweep.metric in names:
        return []
    allowed = ", ".join(names) or "none: no stage of it trains or evaluates"
    return [
        f"metric: no stage of {sweep.program} writes {sweep.metric!r}{did_you_mean(sweep.metric, names)}; allowed: {allowed}"
    ]
