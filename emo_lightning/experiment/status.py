"""What a run directory knows of its stages: `config.yaml` and `stage.json` in each, and whether a stage is complete or stale."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from emo_lightning.core.checkpoints import CheckpointFileError
from emo_lightning.core.files import read_object, read_yaml, write_text
from emo_lightning.core.terminal import say
from emo_lightning.experiment.files import ROOT, ExperimentError
from emo_lightning.experiment.found_checkpoints import Checkpoints
from emo_lightning.experiment.identity import CHANGEABLE_KEYS, InputHashes, first_changed, inputs_of, settings_of
from emo_lightning.experiment.kinds import STAGE_KINDS, TrainerKind
from emo_lightning.experiment.results import CONFIG_FILE, STATUS_FILE, Results, reads, refuse_changed
from emo_lightning.experiment.saving import saved_to
from emo_lightning.experiment.stage import Stage, first_difference, value_at

_RUNNER_FILES = {CONFIG_FILE, STATUS_FILE, ".tmp", "logs", "wandb"}
"""What a stage's folder holds before the stage itself has made anything; but logs may have checkpoints among them."""


def read_status(stage: Stage) -> dict[str, Any]:
    """`stage.json`, or nothing where the stage was never begun."""
    path = stage.out / STATUS_FILE
    return read_object(path) if path.exists() else {}


def write_config(stage: Stage) -> None:
    """Write the resolved arguments, from which `stage_from_folder` makes the stage again."""
    text = yaml.safe_dump({"run": stage.kind, **stage.config}, sort_keys=False)
    write_text(stage.out / CONFIG_FILE, text)


def stage_from_folder(folder: str | Path) -> Stage:
    """The stage whose resolved arguments `write_config` has written there."""
    config = _read_config(Path(folder) / CONFIG_FILE)
    return Stage(Path(folder).name, config.pop("run"), Path(folder).name, config, Path(folder))


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = read_yaml(path, ExperimentError)
    except ExperimentError as error:
        msg = f"{path}: cannot be read: {error}; delete {path.parent} to make it anew"
        raise ExperimentError(msg) from None
    if "run" not in config:
        msg = f"{path}: not the config of a stage; delete {path.parent} to make it anew"
        raise ExperimentError(msg)
    return config


Status = Literal["running", "complete", "cut short", "failed"]


def write_status(
    stage: Stage,
    status: Status,
    started: float,
    inputs: InputHashes,
    changes: Sequence[str] = (),
    results: Results | None = None,
    kept: Checkpoints | None = None,
) -> None:
    """Write `stage.json`.

    Args:
        stage: that is running or has ended.
        status: of it.
        started: seconds since the epoch.
        inputs: what its inputs hold.
        changes: of its settings, with which it goes on (`changes_of`).
        results: what it has written, once it is complete.
        kept: its checkpoints (`checkpoints_of`); None: as they are noted there.
    """
    before = read_status(stage)
    kept = kept or Checkpoints.noted(stage.out, before)
    since = datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds")
    changed = [*before.get("changed", []), *({"since": since, "setting": change} for change in changes)]
    entry = {
        "stage": stage.name,
        "kind": stage.kind,
        "title": stage.title,
        "status": status,
        "config_sha256": stage.digest,
        "started": since,
        "finished": None if status == "running" else datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        # Of what ran: a checkout may have gone on while it did.
        "commit": _commit() if status == "running" else before.get("commit") or _commit(),
        "command": shlex.join(["emo", *sys.argv[1:]]),
        **({"changed": changed} if changed else {}),
        **_identity(stage, inputs),
        **({} if kept is None else kept.note()),
        **({} if results is None else results.noted()),
    }
    write_text(stage.out / STATUS_FILE, json.dumps(entry, indent=2) + "\n")


def changes_of(stage: Stage) -> list[str]:
    """Settings with which a half-done stage goes on instead of those that it has run with, each with both values."""
    path = stage.out / CONFIG_FILE
    return _changes(_read_config(path), stage.config) if path.exists() else []


def _changes(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    pairs = [(key, value_at(old, key), value_at(new, key)) for key in CHANGEABLE_KEYS]
    return [f"{key}: {_said(was)} before, {_said(now)} now" for key, was, now in pairs if was != now]


def _said(value: object) -> str:
    return "not given" if value is None else str(value)


def _check_left_out(stage: Stage) -> None:
    """Of a stage that is now to stop at fewer images: those that it has left out already would have stopped it.

    Raises:
        ExperimentError: says how many there are, and how many are allowed.
    """
    # Later than at the top: what prints help knows nothing of data.
    from emo_lightning.data.skips import MAX_SKIPPED_BY_DEFAULT, left_out

    allowed = (
        int(str(value_at(stage.config, "data.max_skipped") or MAX_SKIPPED_BY_DEFAULT))
        if value_at(stage.config, "data.on_error") == "skip"
        else 0
    )
    if (count := len(left_out(stage.out))) > allowed:
        msg = (
            f"{stage.out} has left out {count} images that cannot be read, and data.on_error and data.max_skipped now allow {allowed}; "
            f"allow as many, choose another --name, or delete {stage.out} to make it anew"
        )
        raise ExperimentError(msg)


def _identity(stage: Stage, inputs: InputHashes) -> dict[str, object]:
    """What a later run compares."""
    return {"run_dir": str(stage.out.parent), "inputs": inputs}


def _commit() -> str | None:
    """Of this checkout. An installed package has none; a repository around it is another program's."""
    if not (ROOT / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, encoding="utf-8", check=False
    )
    return done.stdout.strip() or None


@dataclass(frozen=True)
class _EarlierStart:
    """What `config.yaml` and `stage.json` say of a stage's last start."""

    stage: Stage
    """As it was set."""
    run_dir: str
    """Where its run lay."""

    @classmethod
    def of(cls, stage: Stage, status: Mapping[str, object]) -> _EarlierStart | None:
        """None where the stage has no `config.yaml`."""
        path = stage.out / CONFIG_FILE
        if not path.exists():
            return None
        config = _read_config(path)
        kind, run_dir = str(config.pop("run")), str(status.get("run_dir") or _old_run_dir(stage))
        return cls(replace(stage, kind=kind, config=config, out=Path(run_dir, stage.out.name)), run_dir)

    def difference(self, stage: Stage) -> str | None:
        """The first setting that is another now, with both values."""
        if self.stage.kind != stage.kind:
            return "the kind of stage"
        old = settings_of(stage.kind, self.stage.config, self.run_dir)
        return first_difference(old, settings_of(stage.kind, stage.config, str(stage.out.parent)))

    def checkpoints(self, stage: Stage, status: Mapping[str, Any]) -> Checkpoints:
        """Those that it may have left.

        Args:
            stage: as it is set now.
            status: `stage.json` of the start.
        """
        inputs = status.get("inputs")
        # Version 0.2.0 noted no inputs, and checkpoints of earlier versions name the digest alone.
        left = Checkpoints(stage.out, self.stage.digest)
        if isinstance(inputs, dict):
            left = Checkpoints.as_set(self.stage, inputs).and_those(left)
        if noted := Checkpoints.noted(stage.out, status):
            left = left.and_those(noted)
        left = replace(left, out=stage.out)
        # A run that was moved has taken its files along; one that was copied leaves those of the other alone.
        return left if self.run_dir == str(stage.out.parent) else left.without_those_in(Path(self.run_dir))


def checkpoints_of(stage: Stage, inputs: InputHashes) -> Checkpoints | None:
    """The checkpoints that a stage may go on from: of its settings and inputs as they are now, and of its earlier starts if they are the same.

    Args:
        stage: resolved.
        inputs: what its inputs hold.

    Returns:
        Them; None of a stage that trains nothing.
    """
    if not _trains(stage):
        return None
    status = read_status(stage)
    return _checkpoints_of(stage, inputs, status, _EarlierStart.of(stage, status))


def _checkpoints_of(stage: Stage, inputs: InputHashes, status: Mapping[str, Any], earlier: _EarlierStart | None) -> Checkpoints:
    kept, noted = Checkpoints.as_set(stage, inputs), status.get("inputs")
    if not isinstance(noted, dict) or first_changed(noted, inputs) or (earlier is not None and earlier.difference(stage)):
        return kept
    # `stage.json` says what they were made from, so those that only name the settings are this stage's, too.
    kept = kept.and_those(Checkpoints(stage.out, stage.digest))
    return kept if earlier is None else kept.and_those(earlier.checkpoints(stage, status))


def _trains(stage: Stage) -> bool:
    # An earlier version may have had others.
    kind = STAGE_KINDS.get(stage.kind)
    return isinstance(kind, TrainerKind) and "fit" in kind.verbs


def is_complete(stage: Stage, *, look_inside: bool = True) -> bool:
    """Whether the stage is done, with these settings, on what its inputs hold now.

    Args:
        stage: resolved.
        look_inside: compare what its inputs and its results hold; one rank does so for all.

    Raises:
        ExperimentError: other settings, or inputs with other content, have begun it, a result is not what it wrote, or a checkpoint does
            not say what it was made from, and nothing else does.
    """
    status = read_status(stage)
    earlier = _EarlierStart.of(stage, status)
    if not status or earlier is None:
        if look_inside and _trains(stage):
            _check_checkpoints(stage, status, earlier)
        return False
    complete = status.get("status") == "complete"
    if not complete and not _has_made(stage, status, earlier):
        return False  # It failed before it made anything: the settings may be mended.
    _check_settings(stage, earlier)
    if _changes(earlier.stage.config, stage.config):
        _check_left_out(stage)
    if look_inside:
        _check_inputs(stage, status, complete)
        if complete:
            refuse_changed(stage, status)
    return complete


def _has_made(stage: Stage, status: Mapping[str, Any], earlier: _EarlierStart) -> bool:
    """Whether a stage has made anything: in its folder, or of checkpoints wherever it saved, and saves, to."""
    if not {path.name for path in stage.out.iterdir()} <= _RUNNER_FILES:
        return True
    if not _trains(earlier.stage):
        return False
    left = earlier.checkpoints(stage, status)
    return replace(left, elsewhere=(*left.elsewhere, *saved_to(stage.config))).are_there()


def _check_settings(stage: Stage, earlier: _EarlierStart) -> None:
    if difference := earlier.difference(stage):
        msg = f"{stage.out} was made with other settings ({difference}); choose another --name, or delete {stage.out} to make it anew"
        raise ExperimentError(msg)


def _check_checkpoints(stage: Stage, status: Mapping[str, Any], earlier: _EarlierStart | None) -> None:
    """Where `stage.json` or `config.yaml` is gone, or never was: a checkpoint has to say itself what it was made from.

    Raises:
        ExperimentError: names the first one that does not.
    """
    if not Checkpoints.as_set(stage, {}).may_be_there():
        return
    # Of these two files the one that is left may say enough.
    now = _checkpoints_of(stage, inputs_of(stage), status, earlier)
    for path, checkpoint in now.and_those(Checkpoints(stage.out, stage.digest)).readable():
        # One that is damaged is named where the training would go on from it.
        if isinstance(checkpoint, CheckpointFileError) or now.are_of(checkpoint):
            continue
        if earlier is not None:
            _check_settings(stage, earlier)
        gone = stage.out / (CONFIG_FILE if status else STATUS_FILE)
        inside = path.is_relative_to(stage.out)
        anew = f"choose another --name, or delete {stage.out}" if inside else f"save to another folder, or remove {path}"
        msg = (
            f"{path}: does not say that it was made with these settings and from this data, and there is no {gone} that would; put that "
            f"back, {anew} to make it anew"
        )
        raise ExperimentError(msg)


def _check_inputs(stage: Stage, status: dict[str, Any], complete: bool) -> None:
    """Hold the inputs against those that the stage was made, or begun, from."""
    now = inputs_of(stage)
    noted = status.get("inputs")
    if not isinstance(noted, dict):
        done = "taken as complete" if complete else "it goes on"
        say(
            f"note: {stage.out} was made by a version that noted no content of its inputs: {done}; from now on they are compared",
            file=sys.stderr,
        )
        write_text(stage.out / STATUS_FILE, json.dumps({**status, **_identity(stage, now)}, indent=2) + "\n")
        return
    changed = first_changed(noted, now)
    if changed is None:
        if lost := [key for key, value in now.items() if value is None and noted[key] is not None]:
            say(f"note: {stage.out}: {lost[0]} cannot be read any more, and is not compared", file=sys.stderr)
        return
    if not complete:
        # What it holds is for none to read as if it were whole.
        for mark in stage.out.glob("*/index-*.json"):
            mark.unlink()
    was = "made from" if complete else "begun on"
    msg = (
        f"{stage.out} was {was} other content of {changed} ({_value(stage, changed)}): what it names has changed since, or is another "
        f"thing; put it back, choose another --name, or delete {stage.out} to make it anew"
    )
    raise ExperimentError(msg)


def _value(stage: Stage, key: str) -> str:
    found = value_at(stage.config, key)
    return "not given now" if found is None else str(found)[:100]


def _old_run_dir(stage: Stage) -> str:
    """Where the run lay when version 0.2.0 wrote it: the folder that its `experiment.yaml` names."""
    try:
        return str(read_yaml(stage.out.parent / "experiment.yaml", ExperimentError)["dir"])
    except (ExperimentError, KeyError):
        return str(stage.out.parent)


def check_not_stale(stages: Sequence[Stage], complete: set[str], remade: Collection[str] = ()) -> None:
    """Refuse a finished stage that stands on one that will be made anew.

    Args:
        stages: in order.
        complete: names of those that are.
        remade: names of those that are made again from the same inputs, as their results are gone; should they come out otherwise, the
            next run finds what stands on them made from other content.

    Raises:
        ExperimentError: names both folders.
    """
    for n, later in enumerate(stages):
        for earlier in stages[:n]:
            if later.name not in complete or not reads(later, earlier):
                continue
            if earlier.name not in complete and earlier.name not in remade:
                msg = f"{later.out} was made from an older {earlier.out}; delete it too, so that it is made anew, or choose another --name"
                raise ExperimentError(msg)
