"""Table 6 (paper section 4.3.2): a linear probe on frozen DES, per arm; accuracy, macro precision, recall and F1 in percent."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from emo_lightning.core.files import read_object
from emo_lightning.core.records import EMOTIONS, SchemaError

METRICS = {"accuracy": "Acc.", "precision": "Precision", "recall": "Recall", "f1": "F1"}
"""Key in `metrics.json` -> title, in the paper's order."""

SETS = ("test", "heldout")
"""Prefixes in `metrics.json`: combinations that were trained on, and combinations that never were."""


def classification_scores(
    y_true: Sequence[int] | torch.Tensor, y_pred: Sequence[int] | torch.Tensor, num_classes: int = len(EMOTIONS)
) -> dict[str, float]:
    """Accuracy (over samples) and macro-averaged precision, recall, F1, all in percent.

    A class that occurs neither in the truth nor among the predictions is left out of the macro average.

    Args:
        y_true: (N,) class indices, order of `EMOTIONS`.
        y_pred: (N,) likewise.
        num_classes: the eight, unless told otherwise.
    """
    truth, said = torch.as_tensor(y_true), torch.as_tensor(y_pred)
    if truth.shape != said.shape or truth.ndim != 1 or not len(truth):
        msg = f"y_true has shape {tuple(truth.shape)}, y_pred {tuple(said.shape)}; expected the same (N,), N > 0"
        raise ValueError(msg)
    average: Literal["macro"] = "macro"
    return {
        "accuracy": 100 * multiclass_accuracy(said, truth, num_classes, average="micro").item(),
        "precision": 100 * multiclass_precision(said, truth, num_classes, average=average).item(),
        "recall": 100 * multiclass_recall(said, truth, num_classes, average=average).item(),
        "f1": 100 * multiclass_f1_score(said, truth, num_classes, average=average).item(),
    }


def table6(runs: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of each arm.

    Args:
        runs: arm -> probe folders, each with a `metrics.json` of `test/accuracy` … (percent), and `heldout/…` where measured.

    Returns:
        `{"arms": {arm: {"test": {metric: {"mean", "std", "values"}}, "heldout": …}}, "seeds": {arm: n}}`; std is the sample
        standard deviation, None for one seed; a set that no seed of the arm has is left out.

    Raises:
        FileNotFoundError: no `metrics.json` there.
        SchemaError: an arm has no run, or a file lacks a key that it must have.
    """
    arms: dict[str, Any] = {}
    for arm, folders in runs.items():
        if not folders:
            msg = f"Table 6: arm {arm!r} names no probe run"
            raise SchemaError(msg)
        files = [(Path(folder) / "metrics.json", _read(Path(folder) / "metrics.json")) for folder in folders]
        arms[arm] = {}
        for name in SETS:
            if name != "test" and not any(f"{name}/{metric}" in found for _, found in files for metric in METRICS):
                continue
            arms[arm][name] = {metric: _summary([_value(*file, f"{name}/{metric}") for file in files]) for metric in METRICS}
    return {"arms": arms, "seeds": {arm: len(folders) for arm, folders in runs.items()}}


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        msg = f"{path}: no such file; Table 6 needs the metrics.json of every probe run"
        raise FileNotFoundError(msg)
    return read_object(path)


def _value(path: Path, found: Mapping[str, Any], key: str) -> float:
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{path}: key {key!r}: found {value!r}; expected a number in percent"
        raise SchemaError(msg)
    return float(value)


def _summary(values: list[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}
