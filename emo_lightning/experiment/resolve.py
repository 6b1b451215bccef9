"""An experiment: named stages, run in order into `runs/NAME/STAGE/`, each in a process of its own.

Its YAML holds `name`, optional `vars`, and `stages`; with `extends` only what differs from another one. A stage names its kind
with `run`, the config files it starts from with `defaults` (below `configs/`), and then only what differs. Interpolations see
`${vars.*}`, `${run.dir}`, `${run.out}` (this stage's folder), `${run.stages.NAME}` (another's) and, under `foreach`, `${each.*}`.
Overrides of the command line are applied before interpolation, so they reach every key that refers to them.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emo_lightning.core.names import begins_on_disk
from emo_lightning.core.text import allowed_names
from emo_lightning.experiment.arguments import has_argument, with_truths
from emo_lightning.experiment.environment import guarded_resolvers, secrets
from emo_lightning.experiment.files import (
    ROOT,
    ExperimentError,
    file_names,
    find_file,
    merge,
    parse_value,
    read_experiment,
    read_yaml,
)
from emo_lightning.experiment.interpolation import check_size, unknown_name
from emo_lightning.experiment.kinds import STAGE_KINDS
from emo_lightning.experiment.stage import Stage, with_present_names
from emo_lightning.experiment.tracked import Tracking, tracking_from

_MOST_STAGES = 1000
_STAGE_KEYS = ("run", "defaults", "foreach", "title")
_NAMED_STAGE = re.compile(r"\bstages\s*\.\s*([\w+-]+)")
_ANY_STAGE = re.compile(r"\$\{\s*\.*run\s*\}|\brun\s*\.\s*\$\{|\bstages\s*[}\[]|\bstages\s*\.\s*[\w+-]*\$\{|\brun\s*\[")
"""Where a stage is named by a key that itself has to be filled in, or all are."""


@dataclass
class Experiment:
    """A resolved experiment."""

    name: str
    """Of the run."""
    dir: Path
    """The run's folder, `RUNS/NAME`."""
    stages: list[Stage]
    """In order."""
    source: str
    """Its YAML file."""
    overrides: dict[str, str] = field(default_factory=dict)
    """Dotted key -> YAML text, of the command line."""
    tracking: Tracking = field(default_factory=Tracking)
    """How it is logged to W&B."""
    arms: dict[str, str] = field(default_factory=dict)
    """Arm -> where its backbone stands: `vars.arms`, resolved."""

    def as_yaml(self) -> str:
        """Everything, resolved."""
        stages = {s.name: {"run": s.kind, **s.config} for s in self.stages}
        return yaml.safe_dump({"name": self.name, "dir": str(self.dir), "stages": stages}, sort_keys=False, allow_unicode=True)


def load_experiment(
    path: str | Path,
    overrides: Sequence[tuple[str, str]] = (),
    *,
    name: str | None = None,
    runs: str | Path = "runs",
) -> Experiment:
    """Read, merge, override and resolve an experiment; nothing is run and nothing heavy is imported.

    Args:
        path: the experiment's YAML, or the name of one that is shipped, like `experiments/table6.yaml`.
        overrides: (dotted key, YAML text). `vars.x` sets a variable; `STAGE.key` one stage; any other key, like
            `trainer.devices`, every stage whose kind takes it.
        name: of the run; default is the experiment's own.
        runs: folder of all runs.

    Raises:
        ExperimentError: names the file and the key.
    """
    path = find_file(path)
    tree = read_experiment(path)
    unknown = set(tree) - {"name", "vars", "stages", "description", "wandb"}
    if unknown or not tree.get("stages"):
        found = f"unknown key {sorted(unknown)[0]!r}" if unknown else "no stages"
        msg = f"{path}: {found}; allowed: extends, name, description, vars, stages, wandb"
        raise ExperimentError(msg)
    run_name = str(name or tree.get("name") or path.stem)
    if Path(run_name).is_absolute() or ".." in Path(run_name).parts:
        msg = f"{path}: name {run_name!r}: expected a folder below {runs}"
        raise ExperimentError(msg)
    run_dir = Path(runs) / run_name
    if sign := next((sign for sign in ("::", "${", "://") if sign in f"{runs}/{run_name}"), None):
        # Lightning hands its folders to fsspec, for which the first separates places; OmegaConf fills in the second; a URL is no folder.
        msg = f"{runs}/{run_name}: a run's folder cannot hold {sign!r}; choose another --name or --runs"
        raise ExperimentError(msg)
    variables = copy.deepcopy(tree.get("vars") or {})
    # First, as they may say which stages there are.
    _apply_overrides([one for one in overrides if one[0].startswith("vars.")], variables, {})
    stages = dict(_expanded(path, tree["stages"], variables))
    merged = {stage: _with_defaults(path, stage, body) for stage, (body, _) in stages.items()}
    _apply_overrides([one for one in overrides if not one[0].startswith(("vars.", "wandb."))], variables, merged)
    tracking = tracking_from(
        path, tree.get("wandb"), {key: parse_value(text) for key, text in overrides if key.startswith("wandb.")}
    )
    places = {stage: str(run_dir / stage) for stage in merged}
    arms: dict[str, str] = {}
    resolved = []
    for stage, body in merged.items():
        run = {"dir": str(run_dir), "out": places[stage], "stage": stage, "name": run_name, "stages": places}
        one, filled = _resolve(path, stage, body, variables, run, stages[stage][1])
        resolved.append(one)
        if isinstance(named := filled.get("arms"), dict):
            arms = {str(arm): place for arm, place in named.items() if isinstance(place, str)}
    return Experiment(run_name, run_dir, resolved, str(path), dict(overrides), tracking, arms)


def chosen_stages(experiment: Experiment, only: str | None) -> list[Stage]:
    """All stages, or the one that `--only` names.

    Raises:
        ExperimentError: there is none of that name.
    """
    chosen = [stage for stage in experiment.stages if only in (None, stage.name)]
    if not chosen:
        msg = f"--only {only}: no such stage; allowed: {', '.join(stage.name for stage in experiment.stages)}"
        raise ExperimentError(msg)
    return chosen


def _expanded(
    path: Path, stages: object, variables: dict[str, Any]
) -> Iterable[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    """Stages after `foreach`: the product of its lists, names filled in from `{key}`; a list may be a variable, `${vars.NAME}`."""
    if not isinstance(stages, dict):
        msg = f"{path}: 'stages' must map names to stages"
        raise ExperimentError(msg)
    for name, body in stages.items():
        if not isinstance(body, dict) or not isinstance(body.get("run"), str):
            msg = f"{path}: stage {name!r} needs the key 'run' with its kind"
            raise ExperimentError(msg)
        if body["run"] not in STAGE_KINDS:
            msg = f"{path}: stage {name!r}: run: {body['run']!r} is unknown; {allowed_names(body['run'], STAGE_KINDS)}"
            raise ExperimentError(msg)
        axes = body.get("foreach") or {}
        if isinstance(axes, dict):
            axes = {key: _list_of(values, variables) for key, values in axes.items()}
        if not isinstance(axes, dict) or not all(isinstance(values, list) and values for values in axes.values()):
            msg = (
                f"{path}: stage {name!r}: foreach: found {axes!r}; expected names, each with a list of values, or with a variable that is "
                "one: ${vars.NAME}"
            )
            raise ExperimentError(msg)
        if absent := [key for key in axes if f"{{{key}}}" not in str(name)]:
            msg = f"{path}: stage {name!r}: foreach has {absent[0]!r}, so the name needs {{{absent[0]}}}: each its own"
            raise ExperimentError(msg)
        if (count := math.prod(map(len, axes.values()))) > _MOST_STAGES:
            msg = f"{path}: stage {name!r}: foreach makes {count:,} stages; at most {_MOST_STAGES:,}"
            raise ExperimentError(msg)
        for values in itertools.product(*axes.values()):
            each = dict(zip(axes, values, strict=True))
            full = str(name)
            for key, value in each.items():
                full = full.replace(f"{{{key}}}", str(value))
            if not re.fullmatch(r"[A-Za-z0-9_+-]+", full):
                msg = f"{path}: stage name {full!r}; allowed: letters, digits, '_', '-', '+'"
                raise ExperimentError(msg)
            yield full, ({k: copy.deepcopy(v) for k, v in body.items() if k != "foreach"}, each)


def _list_of(values: object, variables: dict[str, Any]) -> object:
    """What an axis of `foreach` says, or what the variable holds that it names."""
    named = re.fullmatch(r"\$\{vars\.(\w+)\}", values) if isinstance(values, str) else None
    return variables.get(named[1], values) if named else values


def _with_defaults(path: Path, stage: str, body: dict[str, Any]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for name in file_names(path, f"stage {stage!r}: defaults", body.get("defaults")):
        file = ROOT / "configs" / name
        if not file.is_file():
            msg = f"{path}: stage {stage!r}: defaults name {name!r}, but there is no configs/{name}"
            raise ExperimentError(msg)
        merged = merge(merged, read_yaml(file))
    return merge(merged, {k: v for k, v in body.items() if k != "defaults"})


def _apply_overrides(
    overrides: Sequence[tuple[str, str]],
    variables: dict[str, Any],
    stages: dict[str, dict[str, Any]],
) -> None:
    for key, text in overrides:
        value = _Given(text, parse_value(text))
        head, _, rest = key.partition(".")
        if head == "vars" and rest:
            _check_variable_exists(key, variables)
            _put(variables, rest, value, key)
            continue
        named = bool(head in stages and rest)
        # A stage may be called `model`: `--model.optim.lr` still means the argument of that name in every stage that has it.
        wide = not named or head in ("model", "data", "trainer")
        targets = [stage for stage, body in stages.items() if has_argument(str(body["run"]), key)] if wide else []
        if named and (not targets or has_argument(str(stages[head]["run"]), rest)):
            _put(stages[head], rest, value, key)
        else:
            if not targets:
                msg = (
                    f"--{key}: no stage takes this key; allowed: vars.* ({', '.join(variables) or 'none'}), STAGE.* with STAGE one of "
                    f"{', '.join(stages)}, or an argument of the stages (see --print_config)"
                )
                raise ExperimentError(msg)
            for stage in targets:
                _put(stages[stage], key, value, key)


def _check_variable_exists(key: str, variables: dict[str, Any]) -> None:
    """No stage would read it: what a misspelt one sets would go unnoticed."""
    place: object = variables
    at = "vars"
    for part in key.split(".")[1:]:
        if not isinstance(place, dict) or not (place or at == "vars"):
            return
        if part not in place:
            whole = "" if at == "vars" else f"; to add to {at}, give it as a whole"
            msg = f"--{key}: no such variable; allowed: {', '.join(f'{at}.{name}' for name in place) or 'none'}{whole}"
            raise ExperimentError(msg)
        place, at = place[part], f"{at}.{part}"


class _Given(NamedTuple):
    """A value of the command line."""

    text: str
    value: object

    def instead_of(self, before: object) -> object:
        """The text itself where a path stands now and YAML would make a number or a truth of it: folders are called 2026, 1e3, on."""
        path = isinstance(before, str) and ("/" in before or ("${" in before and begins_on_disk(self.text)))
        return self.text if path and isinstance(self.value, bool | int | float) else self.value


def _put(tree: dict[str, Any], dotted: str, given: _Given, option: str) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        if isinstance(text := tree.get(parent), str) and "${" in text:
            # A mapping in its place would hold this key alone: what the variable says of the others would be lost.
            msg = f"--{option}: {parent!r} is {text} here; override that variable, or {parent!r} as a whole"
            raise ExperimentError(msg)
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[last] = given.instead_of(tree.get(last))


def _those_named(places: dict[str, str], text: str) -> dict[str, str]:
    """The stages that a stage's settings can name: of an experiment of a thousand, all for each would take minutes."""
    if _ANY_STAGE.search(text):
        return places
    return {name: places[name] for name in _NAMED_STAGE.findall(text) if name in places}


def _resolve(
    path: Path, stage: str, body: dict[str, Any], variables: dict[str, Any], run: dict[str, Any], each: dict[str, Any]
) -> tuple[Stage, dict[str, Any]]:
    """The stage, and the experiment's variables as it sees them."""
    context = {"vars": variables, "run": run, "each": each}
    arguments = {k: v for k, v in body.items() if k not in _STAGE_KEYS}
    clash = set(arguments) & set(context)
    if clash:
        msg = f"{path}: stage {stage!r}: {sorted(clash)[0]!r} is reserved for interpolation"
        raise ExperimentError(msg)
    title = str(body.get("title", stage))
    context["run"] = run | {"stages": _those_named(run["stages"], repr((arguments, variables, title)))}
    try:
        tree = {**context, "_title": title, "args": arguments}
        check_size(tree)
        config = OmegaConf.create(tree)
        assert isinstance(config, DictConfig)
        # Interpolations are absolute, so arguments are one level down and everything they may name is at the top.
        with guarded_resolvers():
            plain = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, ExperimentError) as error:
        names = {**context, "run": run}
        unknown = unknown_name({**arguments, "title": title}, names) if isinstance(error, OmegaConfBaseException) else None
        msg = f"{path}: stage {stage!r}: {unknown or ' '.join(str(error).split())}"
        raise ExperimentError(msg) from None
    assert isinstance(plain, dict)
    # All of it, for the variables and the title are shown and written too.
    for held in secrets({"args": plain["args"], "vars": plain["vars"], "title": plain["_title"]}):
        msg = f"{path}: stage {stage!r}: {held.removeprefix('args.')}"
        raise ExperimentError(msg)
    kind = str(body["run"])
    named = with_truths(kind, {key: with_present_names(value) for key, value in plain["args"].items()})
    values = {str(key): str(value) for key, value in each.items()}
    return Stage(stage, kind, plain["_title"], named, Path(run["out"]), values), plain["vars"]
