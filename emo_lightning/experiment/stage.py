"""One resolved stage of an experiment, and which of its settings count when two are compared."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo_lightning.experiment.tracked import TrackedRun

PLACEMENT_KEYS = (
    "devices",
    "num_nodes",
    "strategy",
    "accelerator",
    "logger",
    "num_workers",
    "enable_progress_bar",
    "benchmark",
    "max_time",
    "save_every",
    "vision_cache",
)
"""Keys that say where a stage runs and how long one start may take, not what it computes: it stays finished when they change."""
_PLACED = ("save_every", "data.num_workers", "model.backbone.vision_cache")
"""Where such a key stands outside `trainer`. Elsewhere a key of that name is a name of the user's own: of a set, a label, an arm."""


RENAMED_CLASSES = {"emo_lightning.tasks.samples.SampleLogger": "emo_lightning.tasks.sample_logger.SampleLogger"}
"""`class_path` of older releases -> what it is now. YAML of theirs still runs, and a run that they made is still found complete."""

_FIRST_NAMES = {new: old for old, new in RENAMED_CLASSES.items()}


class StageCutShortError(Exception):
    """The stage ended in good order, but before its end: something other than its own settings of length stopped it."""


@dataclass
class Stage:
    """One resolved stage."""

    name: str
    """Its folder below the run."""
    kind: str
    """Key of `emo_lightning.experiment.kinds.STAGE_KINDS`."""
    title: str
    """What it does, for the terminal."""
    config: dict[str, Any]
    """Arguments: plain values, nothing left to interpolate."""
    out: Path
    """Its folder."""
    each: dict[str, str] = field(default_factory=dict)
    """Values of its `foreach`."""
    tracked: TrackedRun | None = None
    """What W&B is told of it; None logs nothing there."""

    @property
    def digest(self) -> str:
        """sha256 over what the stage computes, without where it runs."""
        return hashlib.sha256(
            json.dumps([self.kind, computed_settings(self.config)], sort_keys=True, default=str).encode()
        ).hexdigest()


def computed_settings(config: object, placement: Collection[str] = PLACEMENT_KEYS, *, anywhere: bool = False) -> object:
    """A config without the keys that only say where it runs; classes by the first name that they had, so that digests last.

    Args:
        config: a stage's arguments.
        placement: those keys.
        anywhere: leave them out wherever they stand, as earlier versions did; names of the user's own went with them.
    """
    if anywhere or not isinstance(config, dict):
        return _with_first_names(config, placement)
    settings = {str(key): _with_first_names(value, placement if key == "trainer" else ()) for key, value in config.items()}
    for key in _PLACED:
        path = key.split(".")
        if path[-1] in placement:
            drop_key(settings, path)
    return settings


def _with_first_names(value: object, left_out: Collection[str]) -> object:
    if isinstance(value, dict):
        # A map may have numbers among its words, which do not sort with text.
        return {str(k): _with_first_names(v, left_out) for k, v in value.items() if k not in left_out}
    if isinstance(value, list):
        return [_with_first_names(v, left_out) for v in value]
    return _FIRST_NAMES.get(value, value) if isinstance(value, str) else value


def drop_key(tree: object, path: list[str]) -> None:
    """Remove a key of some settings, if it is there.

    Args:
        tree: the settings, which are changed.
        path: keys from the outermost on; `*` is every key of a mapping.
    """
    if isinstance(tree, dict):
        for key in list(tree) if path[0] == "*" else [path[0]]:
            if len(path) == 1:
                tree.pop(key, None)
            else:
                drop_key(tree.get(key), path[1:])


def with_present_names(value: object) -> object:
    """A config in which classes have the names that they have now."""
    if isinstance(value, dict):
        return {k: with_present_names(v) for k, v in value.items()}
    if isinstance(value, list):
        return [with_present_names(v) for v in value]
    return RENAMED_CLASSES.get(value, value) if isinstance(value, str) else value


def value_at(tree: object, key: str) -> object:
    """What stands at a dotted key of some settings; None where nothing does."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def first_difference(old: object, new: object, at: str = "") -> str | None:
    """The first key in which two configs differ, with both values, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new), key=str):
            found = first_difference(old.get(key), new.get(key), f"{at}.{key}" if at else str(key))
            if found:
                return found
        return None
    return None if old == new else f"{at}: {old!r} there, {new!r} now"
