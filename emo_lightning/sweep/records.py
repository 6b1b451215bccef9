"""What is kept of each run of a sweep, in the run's own directory, so that the same command goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.records import describe
from emo_lightning.experiment.classes import ALLOWED_PACKAGES, allowed_packages
from emo_lightning.experiment.identity import settings_of
from emo_lightning.experiment.resolve import Experiment, load_experiment
from emo_lightning.experiment.stage_metrics import usable
from emo_lightning.sweep.config import Sweep
from emo_lightning.sweep.parameters import Parameter, SweepError
from emo_lightning.sweep.values import TrialValues, as_text, values_digest

RECORD_FILE = "sweep.json"
LOG_FILE = "sweep.log"
DIGEST_MARK = "settings "
"""Before a digest of what the stages compute; those of earlier versions have none."""
_LONGEST_NAME = 100
_MOST_BYTES = 2**20
"""Of the record of a run; one has some metrics and settings. pydantic keeps a complaint of each value that is none."""


@dataclass
class Run:
    """One run.

    Args:
        name: of its directory below the sweep's.
        values: what it was given, by key of `emo run`.
        command: that runs it alone, ready for a shell.
        status: how it ended; `running` also where it was killed.
        metric: the sweep's metric; None where it failed or wrote no finite number.
        metrics: all metrics of its stages.
        seconds: that it took, over all attempts.
        error: the last line of what went wrong.
        digest: of what its stages compute (`digest_of`): a changed experiment is another run. Earlier versions noted `earlier_digest_of`.
    """

    name: str
    values: TrialValues
    command: str
    status: Literal["running", "complete", "failed"] = "running"
    metric: float | None = None
    metrics: dict[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None
    digest: str = ""

    def save(self, folder: Path) -> None:
        """Write the record into the run's directory."""
        write_json(folder / self.name / RECORD_FILE, asdict(self), indent=2)

    def finish(self, code: int, metrics: dict[str, float], metric: str, error: str) -> None:
        """Note how it ended: without a finite metric it failed, whatever its exit code."""
        value = metrics.get(metric)
        # JSON, of which the record and the results are, has no NaN.
        self.metrics = {key: number if math.isfinite(number) else None for key, number in metrics.items()}
        if code == 0 and usable(value):
            self.status, self.metric, self.error = "complete", value, None
        else:
            near = f"the run ended, but {metric} is {'not finite: ' + str(value) if value is not None else 'not among its metrics'}"
            self.status, self.metric, self.error = "failed", None, near if code == 0 else error


def read_run(folder: Path) -> Run | None:
    """The record in a run's directory, or None where there is none.

    Raises:
        SweepError: the file is damaged; names it.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    try:
        found = read_object(path, error=SweepError, max_bytes=_MOST_BYTES)
        # As records made before call them.
        found.setdefault("metrics", found.pop("figures", {}))
        run = TypeAdapter(Run).validate_json(json.dumps(found), strict=True)
    except SweepError as error:
        msg = f"{path}: no record of a run: {error}; delete {folder} to make it anew"
        raise SweepError(msg) from None
    except ValidationError as error:
        msg = f"{path}: no record of a run: {describe(error)}; delete {folder} to make it anew"
        raise SweepError(msg) from None
    if run.name != folder.name:
        msg = f"{path}: key 'name': found {run.name!r}, in the folder {folder.name!r}; delete {folder} to make it anew"
        raise SweepError(msg)
    return run


def new_run(sweep: Sweep, folder: Path, values: TrialValues, name: str | None = None) -> Run:
    """The record of a run that has not begun.

    Args:
        sweep: that asks for it.
        folder: of the sweep.
        values: of the run.
        name: of its directory; None is `run_name`.

    Raises:
        ExperimentError: the experiment does not take these values.
    """
    name = name or run_name(sweep.varied, values)
    overrides = [(key, as_text(value)) for key, value in values.items()]
    command = ["emo", "run", str(sweep.program), "--runs", str(folder), "--name", name, *(f"--{k}={v}" for k, v in overrides)]
    command += [f"--allow-classes={package}" for package in allowed_packages()[len(ALLOWED_PACKAGES) :]]
    return Run(name, values, shlex.join(command), digest=digest_of(experiment_of(sweep, folder, name, values)))


def digest_of(experiment: Experiment) -> str:
    """sha256 over what the stages compute, wherever the run and its inputs lie; what those hold, the stages compare themselves."""
    run_dir = str(experiment.dir)
    said = [[stage.name, stage.kind, settings_of(stage.kind, stage.config, run_dir)] for stage in experiment.stages]
    return DIGEST_MARK + hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def earlier_digest_of(experiment: Experiment) -> str:
    """As earlier versions noted it: the same only where the run and its inputs lie and are spelled as they were."""
    return hashlib.sha256("".join(stage.digest for stage in experiment.stages).encode()).hexdigest()


def experiment_of(sweep: Sweep, folder: Path, name: str, values: TrialValues) -> Experiment:
    """The experiment that a run is.

    Raises:
        ExperimentError: it does not take these values.
    """
    return load_experiment(sweep.program, [(key, as_text(value)) for key, value in values.items()], name=name, runs=folder)


def run_name(varied: Sequence[Parameter], values: TrialValues) -> str:
    """A folder's name that says what differs, and ends in a mark of all values."""
    short = labels(values)
    said = "_".join(f"{short[p.name]}={as_text(values[p.name])}" for p in varied)
    return f"{re.sub(r'[^A-Za-z0-9._=+-]+', '-', said)[:_LONGEST_NAME].strip('-')}-{values_digest(values)}"


def labels(names: Iterable[str]) -> dict[str, str]:
    """Each dotted key by as few of its last parts as tell it from the others."""
    names = list(names)
    parts = {name: name.split(".") for name in names}

    def ending(name: str, count: int) -> str:
        return ".".join(parts[name][-count:])

    short = {}
    for name in names:
        count = next(n for n in range(1, len(parts[name]) + 1) if n == len(parts[name]) or _alone(name, n, names, ending))
        short[name] = ending(name, count)
    return short


def _alone(name: str, count: int, names: Iterable[str], ending: Callable[[str, int], str]) -> bool:
    return all(other == name or ending(other, count) != ending(name, count) for other in names)
