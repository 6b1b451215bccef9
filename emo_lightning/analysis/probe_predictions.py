"""What the probes of one arm of Table 6 predict of each evaluation set, as their stages wrote it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import MissingFileError
from emo_lightning.core.file_names import EMBEDDINGS_FILE, METRICS_FILE, PREDICTIONS_FILE
from emo_lightning.core.files import read_object
from emo_lightning.core.records import EMOTIONS, Emotion, Prediction, SchemaError, read_jsonl
from emo_lightning.data.embeddings import EmbeddingTable


@dataclass(frozen=True)
class ArmPredictions:
    """What the probes of one arm say of one evaluation set; images without an emotion are left out."""

    ids: list[str]
    """N image ids, sorted."""
    truth: NDArray[np.int64]
    """(N,) class indices, order of `EMOTIONS`."""
    predicted: NDArray[np.int64]
    """(seeds, N) class indices."""

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(seeds, N)."""
        same: NDArray[np.bool_] = self.predicted == self.truth
        return same


_OneSeed = tuple[list[str], NDArray[np.int64], NDArray[np.int64]]
"""(ids, truth, predicted) of one probe on one set."""


def read_arm(folders: Sequence[Path]) -> dict[str, ArmPredictions]:
    """Set -> what the probes of an arm predicted, as their stages wrote it.

    Args:
        folders: one probe stage per seed, with `predictions.jsonl`, `des.parquet` and `metrics.json`.

    Raises:
        MissingFileError: one of the three is missing.
        SchemaError: seeds were evaluated on different images, or the files of a folder do not belong together.
    """
    sets: dict[str, list[_OneSeed]] = {}
    for folder in folders:
        for name, found in _read_folder(Path(folder)).items():
            sets.setdefault(name, []).append(found)
    arm = {}
    for name, seeds in sets.items():
        ids, truth, _ = seeds[0]
        if len(seeds) < len(folders) or any(i != ids or (t != truth).any() for i, t, _ in seeds):
            msg = f"{folders[0]}: set {name!r} is not the same images with the same emotions in all of the arm's seeds"
            raise SchemaError(msg)
        arm[name] = ArmPredictions(ids, truth, np.stack([predicted for _, _, predicted in seeds]))
    return arm


def evaluated_images(folder: Path, name: str) -> dict[str, int]:
    """Id -> class index, order of `EMOTIONS`, of the images of a set that a probe was evaluated on.

    Args:
        folder: a probe stage, with `des.parquet`.
        name: of the set.

    Raises:
        MissingFileError: no such file.
        SchemaError: it has no image of that set.
    """
    path = folder / EMBEDDINGS_FILE
    if not path.is_file():
        msg = f"{path}: no such file; it names the images that the probe was evaluated on"
        raise MissingFileError(msg)
    if not (found := _read_truth(path).get(name)):
        msg = f"{path}: no image of the set {name!r}"
        raise SchemaError(msg)
    return found


def _read_folder(folder: Path) -> dict[str, _OneSeed]:
    for name in (EMBEDDINGS_FILE, PREDICTIONS_FILE, METRICS_FILE):
        if not (folder / name).is_file():
            msg = f"{folder / name}: no such file; the paired test needs what a probe stage writes"
            raise MissingFileError(msg)
    predicted = _read_predictions(folder / PREDICTIONS_FILE)
    metrics = read_object(folder / METRICS_FILE)
    found = {}
    for name, emotions in _read_truth(folder / EMBEDDINGS_FILE).items():
        if not emotions:
            # Images that people rated and gave no emotion: nothing is right or wrong.
            continue
        if without := next((i for i in emotions if (name, i) not in predicted), None):
            msg = f"{folder / PREDICTIONS_FILE}: no prediction of {without!r} in the set {name!r}, which {EMBEDDINGS_FILE} has"
            raise SchemaError(msg)
        ids = sorted(emotions)
        truth = np.array([emotions[i] for i in ids], dtype=np.int64)
        said = np.array([predicted[name, i] for i in ids], dtype=np.int64)
        reported, counted = metrics.get(f"{name}/accuracy"), 100 * float((said == truth).mean()) if ids else 0.0
        # One image may tip over between batches of unequal size; more means that the files are not of one run.
        if reported is not None and abs(counted - reported) > 100 / max(len(ids), 1) + 0.1:
            msg = (
                f"{folder}: {PREDICTIONS_FILE} has an accuracy of {counted:.2f} on {name!r}, {METRICS_FILE} says {reported:.2f}"
            )
            raise SchemaError(msg)
        found[name] = (ids, truth, said)
    return found


def _read_predictions(path: Path) -> dict[tuple[str | None, str], int]:
    """(set, id) -> class index."""
    predicted: dict[tuple[str | None, str], int] = {}
    position = {str(emotion): emotion.position for emotion in EMOTIONS}
    for prediction in read_jsonl(path, Prediction):
        if prediction.confidence is None or not np.isfinite(prediction.confidence) or prediction.emotion not in position:
            msg = f"{path}: the prediction of {prediction.id!r} has no emotion of the eight with a finite confidence"
            raise SchemaError(msg)
        predicted[prediction.split, prediction.id] = position[prediction.emotion]
    return predicted


def _read_truth(path: Path) -> dict[str, dict[str, int]]:
    """Set -> id -> class index, of the images with an emotion; sets in the order of the file."""
    table = EmbeddingTable.read(path)
    found: dict[str, dict[str, int]] = {}
    for name, emotion, split in zip(table.id, table.emotion, table.split, strict=True):
        own = found.setdefault(split, {})
        if emotion is not None:
            own[name] = Emotion.parse(emotion).position
    return found
