"""The annotated images that predictions are compared with: from JSON lines (no images) or from tars."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.records import Prediction, Record, SchemaError, check_pixels, read_jsonl

if TYPE_CHECKING:
    from PIL.Image import Image

    from emo_lightning.data.tar_index import TarIndex


class References:
    """Records with unique ids, in file order, and their images where they come from tars.

    Args:
        records: what is true of each image.
        index: the tars, row by row as the records; None where there are no images.
        where: the files, for messages.

    Raises:
        SchemaError: no record, or a repeated id.
    """

    def __init__(self, records: Sequence[Record], index: TarIndex | None = None, where: str = "the references") -> None:
        self.records = list(records)
        self._index = index
        if not self.records:
            msg = f"{where}: hold no record"
            raise SchemaError(msg)
        self._check_unique(where)

    def _check_unique(self, where: str) -> None:
        seen: set[str] = set()
        for record in self.records:
            if record.id in seen:
                msg = f"{where}: reference id {record.id!r} occurs twice"
                raise SchemaError(msg)
            seen.add(record.id)

    @classmethod
    def load(cls, paths: str | Path | Sequence[str | Path]) -> References:
        """From `.jsonl` files, or else from tars (files, folders, globs: whatever `TarIndex.open` takes).

        Raises:
            SchemaError: no record, a repeated id, JSON lines mixed with tars, or an invalid line.
            MissingFileError: a file is missing.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        lines = [p for p in given if str(p).endswith(".jsonl")]
        if not given or 0 < len(lines) < len(given):
            msg = f"references {[str(p) for p in given]}: expected .jsonl files or tars, not none and not both"
            raise SchemaError(msg)
        where = ", ".join(map(str, given))
        if lines:
            return cls([record for path in lines for record in read_jsonl(path, Record)], where=where)
        from emo_lightning.data.tar_index import TarIndex

        index = TarIndex.open(given)
        return cls([index.record(i) for i in range(len(index))], index, where)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def has_images(self) -> bool:
        """Whether `image` works."""
        return self._index is not None

    @property
    def splits(self) -> str:
        """The splits that occur, joined by commas."""
        return ", ".join(sorted({record.split for record in self.records}))

    def image(self, i: int) -> Image:
        """The i-th image, RGB.

        Raises:
            SchemaError: these references came from JSON lines.
        """
        if self._index is None:
            msg = "these references are JSON lines, which hold no images: give the tars instead"
            raise SchemaError(msg)
        return self._index.image(i)


def by_id(path: str | Path) -> dict[str, Prediction]:
    """Predictions of one file by id, of whatever images.

    Raises:
        SchemaError: an id occurs twice, there is no prediction, or all boxes are fractions of their images.
        MissingFileError: no such file.
    """
    predictions: dict[str, Prediction] = {}
    for prediction in read_jsonl(path, Prediction):
        if prediction.id in predictions:
            msg = f"{path}: prediction id {prediction.id!r} occurs twice"
            raise SchemaError(msg)
        predictions[prediction.id] = prediction
    if not predictions:
        msg = f"{path}: holds no prediction"
        raise SchemaError(msg)
    check_pixels(list(predictions.values()), str(path))
    return predictions


def load_predictions(path: str | Path, references: References) -> dict[str, Prediction]:
    """Predictions by id.

    Raises:
        SchemaError: no prediction, an id occurs twice, or one is not among the references.
        MissingFileError: no such file.
    """
    predictions = by_id(path)
    known = {record.id for record in references.records}
    if unknown := [i for i in predictions if i not in known]:
        msg = (
            f"{path}: {len(unknown)} of {len(predictions)} prediction ids are not among the {len(known)} references, "
            f"e.g. {', '.join(map(repr, unknown[:5]))}"
        )
        raise SchemaError(msg)
    warn_of_other_images(predictions, references.records, str(path))
    return predictions


def predictions_of_arms(files: Mapping[str, Path], references: References) -> dict[str, dict[str, Prediction]]:
    """Arm -> id -> prediction, of a file for each arm; errors as `load_predictions`, and where no arm is named."""
    if not files:
        msg = "predictions: no arm is named"
        raise SchemaError(msg)
    return {arm: load_predictions(path, references) for arm, path in files.items()}


def warn_of_other_images(predictions: Mapping[str, Prediction], records: Iterable[Record], where: str) -> None:
    """Say where predictions and references of one id are of other bytes: of another picture, or of the same one written anew.

    Args:
        predictions: by id; those that do not say of which bytes they are, are not compared.
        records: what they are held against.
        where: the predictions' file.
    """
    pairs = [(one, record) for record in records if (one := predictions.get(record.id)) is not None and one.sha256 is not None]
    if other := [record.id for one, record in pairs if one.sha256 != record.sha256]:
        warn_once(
            f"{where}: {len(other)} of {len(pairs)} predictions are of other image files than the references of the same id, first: "
            f"{other[0]!r} (another picture, or the same one written anew)"
        )


def check_distinct(sets: Mapping[str, Iterable[Record]]) -> None:
    """Refuse sets that have an id in common but not its picture: predictions are found by id.

    Raises:
        SchemaError: names both sets and the id.
    """
    homes: dict[str, tuple[str, str]] = {}
    for name, records in sets.items():
        for record in records:
            home, digest = homes.setdefault(record.id, (name, record.sha256))
            if digest != record.sha256:
                msg = f"the sets {home!r} and {name!r} have other pictures under the id {record.id!r}; a prediction is found by its id"
                raise SchemaError(msg)


def arm_names(files: Sequence[Path]) -> list[str]:
    """A name for each predictions file: its own; where all have the same, that of the folders in which they differ.

    Raises:
        SchemaError: the same file twice.
    """
    paths = [Path(file).absolute() for file in files]
    if len(set(paths)) < len(paths):
        msg = f"the same predictions file twice: {files[0]}"
        raise SchemaError(msg)
    if len({path.stem for path in paths}) == len(paths):
        return [path.stem for path in paths]
    if len({path.name for path in paths}) > 1 or len(paths) == 1:
        return [str(file) for file in files]
    depth = 1
    while len({path.parts[-1 - depth : -1] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path.parts[-1 - depth : -1]) for path in paths]
