"""What W&B is told of an experiment, and of one stage of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from emo_lightning.core.wandb_defaults import wandb_mode
from emo_lightning.experiment.files import ExperimentError

TrackingMode = Literal["online", "offline", "disabled"]
TRACKING_MODES: tuple[TrackingMode, ...] = get_args(TrackingMode)
_SAME_MODE = {"dryrun": "offline", "run": "online"}
"""Former names of W&B's own."""
MAX_TAG_CHARACTERS = 64
"""Characters of one that W&B's server takes."""


@dataclass(frozen=True)
class Tracking:
    """How an experiment is logged to W&B: the key `wandb` of its file."""

    mode: str | None = None
    """`online`, `offline` (kept on disk, for `wandb sync`) or `disabled`; None takes `WANDB_MODE`, else `offline`."""
    project: str | None = None
    """Of W&B; None takes `WANDB_PROJECT`, else `emo-lightning`."""
    entity: str | None = None
    """User or team; None takes `WANDB_ENTITY`, else the account's own."""
    tags: tuple[str, ...] = ()
    """Of every stage, beside those that it has by itself: its arm and its seed."""

    @property
    def chosen_mode(self) -> TrackingMode:
        """The mode that holds now.

        Raises:
            ExperimentError: there is no such mode.
        """
        given, where = wandb_mode(self.mode), "wandb.mode" if self.mode else "WANDB_MODE"
        mode = _SAME_MODE.get(given, given)
        if mode not in TRACKING_MODES:
            msg = f"{where}: found {given!r}; allowed: {', '.join(TRACKING_MODES)}"
            raise ExperimentError(msg)
        return mode


@dataclass(frozen=True)
class TrackedRun:
    """What W&B is told of one stage."""

    id: str
    """Of the run; a stage that goes on after a kill goes on in the same run."""
    name: str
    """Run and stage."""
    group: str
    """The experiment's run, to which the other stages belong as well."""
    tags: tuple[str, ...]
    """Arm, seed, and those of the experiment."""
    tracking: Tracking
    """Project, entity and mode."""
    config: dict[str, object] = field(repr=False)
    """The stage's resolved settings, dotted key -> value."""


def tracking_from(path: Path, given: object, overrides: Mapping[str, object]) -> Tracking:
    """The key `wandb` of an experiment's file, and what the command line sets of it.

    Args:
        path: of the file, for messages.
        given: what stands there; None where nothing does.
        overrides: `wandb.KEY` -> value.

    Raises:
        ExperimentError: a key that there is not, or a value of another kind.
    """
    allowed = [one.name for one in fields(Tracking)]
    if given is not None and not isinstance(given, dict):
        msg = f"{path}: wandb: found {given!r}; expected a mapping with {', '.join(allowed)}"
        raise ExperimentError(msg)
    values = {f"wandb.{key}": value for key, value in (given or {}).items()} | dict(overrides)
    for key, value in values.items():
        name = key.removeprefix("wandb.")
        if name not in allowed:
            msg = f"{path}: {key}: no such key; allowed: {', '.join(f'wandb.{one}' for one in allowed)}"
            raise ExperimentError(msg)
        if name == "tags":
            if not (
                isinstance(value, list) and all(isinstance(tag, str) and 1 <= len(tag) <= MAX_TAG_CHARACTERS for tag in value)
            ):
                msg = (
                    f"{path}: {key}: found {value!r}; expected a list of words, each of at most {MAX_TAG_CHARACTERS} characters"
                )
                raise ExperimentError(msg)
        elif value is not None and not isinstance(value, str):
            msg = f"{path}: {key}: found {value!r}; expected a word"
            raise ExperimentError(msg)
    plain = {key.removeprefix("wandb."): tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    tracking = Tracking(**plain)  # type: ignore[arg-type]  # checked above
    _ = tracking.chosen_mode
    return tracking
