"""What a run directory knows of its stages: `config.yaml` and `stage.json` in each, and whether a stage is complete or stale."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from emo_lightning.core.files import parse_yaml, read_object, write_text
from emo_lightning.experiment.files import ROOT, ExperimentError
from emo_lightning.experiment.stage import Stage, computed_settings, first_difference

CONFIG_FILE = "config.yaml"
STATUS_FILE = "stage.json"
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
        config = parse_yaml(path.read_text(encoding="utf-8"), path, ExperimentError)
    except (ExperimentError, UnicodeDecodeError) as error:
        msg = f"{path}: cannot be read: {error}; delete {path.parent} to make it anew"
        raise ExperimentError(msg) from None
    if not isinstance(config, dict) or "run" not in config:
        msg = f"{path}: not the config of a stage; delete {path.parent} to make it anew"
        raise ExperimentError(msg)
    return config


def write_status(stage: Stage, status: Literal["running", "complete", "failed"], started: float) -> None:
    """Write `stage.json`.

    Args:
        stage: that is running or has ended.
        status: of it.
        started: seconds since the epoch.
    """
    entry = {
        "stage": stage.name,
        "kind": stage.kind,
        "title": stage.title,
        "status": status,
        "config_sha256": stage.digest,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": None if status == "running" else datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "commit": _commit(),
        "command": shlex.join(["emo", *sys.argv[1:]]),
    }
    write_text(stage.out / STATUS_FILE, json.dumps(entry, indent=2) + "\n")


def _commit() -> str | None:
    """Of this checkout. An installed package has none; a repository around it is another program's."""
    if not (ROOT / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def is_complete(stage: Stage) -> bool:
    """Whether the stage is done.

    Raises:
        ExperimentError: other settings have begun it.
    """
    status, saved = read_status(stage), stage.out / CONFIG_FILE
    if not status or not saved.exists():
        return False
    if status.get("config_sha256") != stage.digest:
        if status.get("status") != "complete" and {path.name for path in stage.out.iterdir()} <= _RUNNER_FILES:
            return False  # It failed before it made anything: the settings may be mended.
        old, new = _read_config(saved), {"run": stage.kind, **stage.config}
        difference = first_difference(computed_settings(old), computed_settings(new)) or "the kind of stage"
        msg = f"{stage.out} was made with other settings ({difference}); choose another --name, or delete {stage.out} to make it anew"
        raise ExperimentError(msg)
    return status.get("status") == "complete"


def check_not_stale(stages: Sequence[Stage], complete: set[str]) -> None:
    """Refuse a finished stage that stands on one that is, or will be, made anew.

    Args:
        stages: in order.
        complete: names of those that are.

    Raises:
        ExperimentError: names both folders.
    """
    for n, later in enumerate(stages):
        named = json.dumps(later.config, default=str)
        for earlier in stages[:n]:
            if later.name not in complete or not (f"{earlier.out}/" in named or f'{earlier.out}"' in named):
                continue
            if earlier.name not in complete or str(read_status(earlier).get("finished")) > str(
                read_status(later).get("started")
            ):
                msg = f"{later.out} was made from an older {earlier.out}; delete it too, so that it is made anew, or choose another --name"
                raise ExperimentError(msg)
