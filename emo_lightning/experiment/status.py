"""What a run directory knows of its stages: `config.yaml` and `stage.json` in each, and whether a stage is complete or stale."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from emo_lightning.core.files import read_object, read_yaml, write_text
from emo_lightning.core.terminal import say
from emo_lightning.experiment.files import ROOT, ExperimentError
from emo_lightning.experiment.identity import CHANGEABLE_KEYS, InputHashes, first_changed, inputs_of, settings_of
from emo_lightning.experiment.results import CONFIG_FILE, STATUS_FILE, ResultHashes, reads, refuse_changed
from emo_lightning.experiment.stage import Stage, first_difference

_RUNNER_FILES = {CONFIG_FILE, STATUS_FILE, ".tmp", "logs", "wandb"}
"""What a stage's folder holds before the stage itself has made anything."""


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
    results: ResultHashes | None = None,
) -> None:
    """Write `stage.json`.

    Args:
        stage: that is running or has ended.
        status: of it.
        started: seconds since the epoch.
        inputs: what its inputs hold.
        changes: of its settings, with which it goes on (`changes_of`).
        results: what it has written, once it is complete.
    """
    before = read_status(stage)
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
        **({} if results is None else {"results": results}),
    }
    write_text(stage.out / STATUS_FILE, json.dumps(entry, indent=2) + "\n")


def changes_of(stage: Stage) -> list[str]:
    """Settings with which a half-done stage goes on instead of those that it has run with, each with both values."""
    path = stage.out / CONFIG_FILE
    return _changes(_read_config(path), stage.config) if path.exists() else []


def _changes(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    pairs = [(key, _at(old, key), _at(new, key)) for key in CHANGEABLE_KEYS]
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
        int(str(_at(stage.config, "data.max_skipped") or MAX_SKIPPED_BY_DEFAULT))
        if _at(stage.config, "data.on_error") == "skip"
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


def is_complete(stage: Stage, *, look_inside: bool = True) -> bool:
    """Whether the stage is done, with these settings, on what its inputs hold now.

    Args:
        stage: resolved.
        look_inside: compare what its inputs and its results hold; one rank does so for all.

    Raises:
        ExperimentError: other settings, or inputs with other content, have begun it, or a result is not what it wrote.
    """
    status, saved = read_status(stage), stage.out / CONFIG_FILE
    if not status or not saved.exists():
        return False
    complete = status.get("status") == "complete"
    if not complete and {path.name for path in stage.out.iterdir()} <= _RUNNER_FILES:
        return False  # It failed before it made anything: the settings may be mended.
    old = _read_config(saved)
    kind = str(old.pop("run"))
    there, here = str(status.get("run_dir") or _old_run_dir(stage)), str(stage.out.parent)
    difference = "the kind of stage" if kind != stage.kind else None
    difference = difference or first_difference(settings_of(kind, old, there), settings_of(kind, stage.config, here))
    if difference:
        msg = f"{stage.out} was made with other settings ({difference}); choose another --name, or delete {stage.out} to make it anew"
        raise ExperimentError(msg)
    if _changes(old, stage.config):
        _check_left_out(stage)
    if look_inside:
        _check_inputs(stage, status, complete)
        if complete:
            refuse_changed(stage.out, status)
    return complete


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
    found = _at(stage.config, key)
    return "not given now" if found is None else str(found)[:100]


def _at(tree: object, key: str) -> object:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


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
