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


def computed_settings(value: object, placement: Collection[str] = PLACEMENT_KEYS) -> object:
    """A config without the keys that only say where it runs; classes by the first name that they had, so that digests last.

    Args:
        value: the config, or a part of it.
        placement: those keys.
    """
    if isinstance(value, dict):
        # A map may have numbers among its words, which do not sort with text.
        return {str(k): computed_settings(v, placement) for k, v in value.items() if k not in placement}
    if isinstance(value, list):
        return [computed_settings(v, placement) for v in value]
    return _FIRST_NAMES.get(value, value) if isinstance(value, str) else value


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
