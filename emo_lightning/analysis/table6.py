"""Table 6 (paper section 4.3.2): a linear probe on frozen DES, per arm; accuracy, macro precision, recall and F1 in percent."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

from emo_lightning.core.errors import MissingFileError
from emo_lightning.core.file_names import METRICS_FILE
from emo_lightning.core.files import read_object
from emo_lightning.core.records import SchemaError

TABLE6_METRICS = {"accuracy": "Acc.", "precision": "Precision", "recall": "Recall", "f1": "F1"}
"""Key in `metrics.json` -> title, in the paper's order."""

TABLE6_SETS = ("test", "heldout")
"""Prefixes in `metrics.json`: combinations that were trained on, and combinations that never were."""


class Summary(TypedDict):
    """A metric over the seeds of an arm, in percent."""

    mean: float
    std: float | None
    """Sample standard deviation; None for one seed."""
    values: list[float]


class Table6(TypedDict):
    """Arm -> set -> metric; a set that no seed of the arm has is left out."""

    arms: dict[str, dict[str, dict[str, Summary]]]
    seeds: dict[str, int]


def table6(runs: Mapping[str, Sequence[Path]], needed: str = "test") -> Table6:
    """Mean and standard deviation over the seeds of each arm.

    Args:
        runs: arm -> probe folders, each with a `metrics.json` of `test/accuracy` … (percent), and `heldout/…` where measured.
        needed: the set of `TABLE6_SETS` that every run must have.

    Raises:
        MissingFileError: no `metrics.json` there.
        SchemaError: an arm has no run, or a file lacks a key that it must have.
    """
    arms: dict[str, dict[str, dict[str, Summary]]] = {}
    for arm, folders in runs.items():
        if not folders:
            msg = f"Table 6: arm {arm!r} names no probe run"
            raise SchemaError(msg)
        files = [(Path(folder) / METRICS_FILE, _read(Path(folder) / METRICS_FILE)) for folder in folders]
        arms[arm] = {}
        for name in TABLE6_SETS:
            if name != needed and not any(f"{name}/{metric}" in found for _, found in files for metric in TABLE6_METRICS):
                continue
            arms[arm][name] = {
                metric: summary([_value(*file, f"{name}/{metric}") for file in files]) for metric in TABLE6_METRICS
            }
    return {"arms": arms, "seeds": {arm: len(folders) for arm, folders in runs.items()}}


def _read(path: Path) -> dict[str, object]:
    if not path.is_file():
        msg = f"{path}: no such file; Table 6 needs the metrics.json of every probe run"
        raise MissingFileError(msg)
    return read_object(path)


def _value(path: Path, found: Mapping[str, object], key: str) -> float:
    value = found.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        msg = f"{path}: key {key!r}: found {value!r}; expected a number in percent"
        raise SchemaError(msg)
    return float(value)


def summary(values: list[float]) -> Summary:
    """Mean and sample standard deviation of a metric over runs."""
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "values": values}
