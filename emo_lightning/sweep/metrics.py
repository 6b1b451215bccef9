"""A run's metrics as one flat mapping, `STAGE/METRIC`; and which of them a stage will write, before it has run."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.stage_metrics import stage_metrics

_LOGGED = {
    "des": ("val/loss", "val/accuracy", "train/loss"),
    "des_online": ("val/loss", "val/accuracy", "train/loss"),
    "sft": ("val/loss", "train/loss"),
    "clip": ("val/loss", "train/loss"),
}
_PROBED = ("accuracy", "precision", "recall", "f1")
_ANSWERED = ("accuracy", "gain", "over_constant", "labels")
_SILENT = ("world", "world_tars", "tiny_qwen", "tiny_clip", "features", "predict", "panel", "bundle", "report")
"""Kinds that write no metric. Those in neither (tables and the like) write metrics whose names depend on the data."""


def promised(stage: Stage) -> tuple[list[str], bool]:
    """(metrics that the stage will write, as STAGE/METRIC; whether it writes others too, whose names the data decide)."""
    names: list[str] = []
    if stage.kind in _LOGGED:
        names = list(_LOGGED[stage.kind])
    elif stage.kind == "probe":
        data = stage.config.get("data", {})
        sets = [*(["test"] if data.get("test") else []), *(data.get("extra") or {})]
        names = ["val/accuracy", "val/f1", *(f"{name}/{metric}" for name in sets for metric in _PROBED)]
    elif stage.kind == "grpo":
        # And what it logs of replies and rewards.
        sets = ["val", *(stage.config.get("data", {}).get("others") or {})]
        metrics = [*_ANSWERED, *(["zero_shot_gain"] if stage.config.get("model", {}).get("zero_shot") else [])]
        names = ["val/loss", "train/loss", "reward/total", *(f"{name}/{metric}" for name in sets for metric in metrics)]
    known = stage.kind in _LOGGED or stage.kind == "probe" or stage.kind in _SILENT
    return [f"{stage.name}/{name}" for name in names], not known


def run_metrics(run: Path) -> dict[str, float]:
    """All metrics of a run directory, each stage's under its name. Values may be NaN.

    Raises:
        ValueError: a stage's file cannot be read; names it.
    """
    return {
        f"{path.parent.name}/{name}": value
        for path in sorted(run.glob("*/stage.json"))
        for name, value in stage_metrics(path.parent).items()
    }
