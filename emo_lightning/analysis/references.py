"""What is true of the images that predictions are compared with: from JSON lines, Parquet (no images) or tars."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.analysis.item_files import holds_images, is_rows, read_all, read_items
from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.records import Prediction, Reference, SchemaError, check_pixels
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from PIL.Image import Image

    from emo_lightning.data.tar_index import TarIndex


UNKNOWN_SPLIT = "unknown"
"""Split of a record that names none."""


class References:
    """What is true of images with unique ids, in file order, and the images where they come from tars.

    Args:
        records: what is true of each image; an id and the labels that are scored are enough (`require` names what is missing).
        index: the tars, row by row as the records; None where there are no images.
        where: the files, for messages.

    Raises:
        SchemaError: no record, or a repeated id.
    """

    def __init__(self, records: Sequence[Reference], index: TarIndex | None = None, where: str = "the references") -> None:
        self.records = list(records)
        self._index = index
        self.unreadable: dict[str, str] = {}
        """Id -> why, of the images that `picture` could not give."""
        if not self.records:
            msg = f"{where}: no record"
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
        """From `.jsonl` or `.parquet` files, or else from tars (files, folders, globs: whatever `TarIndex.open` takes).

        Tars without images, and those whose records are not whole, are read for their records alone: they have no images then.

        Raises:
            SchemaError: no record, a repeated id, files of rows mixed with tars, or an invalid line, row or member.
            MissingFileError: a file is missing.
        """
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        rows = [path for path in given if is_rows(path)]
        if not given or 0 < len(rows) < len(given):
            msg = f"references {[str(p) for p in given]}: expected .jsonl or .parquet files or tars, not none and not both"
            raise SchemaError(msg)
        where = ", ".join(map(str, given))
        if rows:
            return cls(read_all(rows, Reference), where=where)
        from emo_lightning.data.tar_index import TarIndex

        try:
            # What is true of an image is known whether or not its picture is whole.
            index = TarIndex.open(given, bad_images=True)
            return cls([index.record(i) for i in range(len(index))], index, where)
        except ShardError as problem:
            # Perhaps they are references of the least form; where they are none either, that is what the reader of them says.
            found = read_all(given, Reference)
            if not found or (all(map(_is_whole, found)) and any(map(holds_images, given))):
                raise
            warn_once(f"{where}: read without images: {problem}")
            return cls(found, where=where)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def has_images(self) -> bool:
        """Whether `image` works."""
        return self._index is not None

    @property
    def splits(self) -> str:
        """The splits that occur, joined by commas."""
        return ", ".join(self.by_split)

    @property
    def by_split(self) -> dict[str, int]:
        """Split, sorted -> how many images."""
        return dict(sorted(Counter(record.split or UNKNOWN_SPLIT for record in self.records).items()))

    def image(self, i: int) -> Image:
        """The i-th image, RGB.

        Raises:
            SchemaError: these references came without images.
            ShardError: the image cannot be read.
        """
        if self._index is None:
            msg = "these references hold no images: give the tars instead"
            raise SchemaError(msg)
        return self._index.image(i)

    def picture(self, i: int) -> Image | None:
        """As `image`; None of one that cannot be read, which is named on the terminal once, and kept in `unreadable`."""
        try:
            return self.image(i)
        except ShardError as fault:
            name = self.records[i].id
            if name not in self.unreadable:
                self.unreadable[name] = str(fault)
                say(f"picture {len(self.unreadable)} that cannot be read, left out: {fault}", file=sys.stderr)
            return None


def _is_whole(reference: Reference) -> bool:
    return None not in (reference.source, reference.width, reference.height, reference.sha256, reference.split)


def by_id(path: str | Path) -> dict[str, Prediction]:
    """Predictions of one place by id, of whatever images: `.jsonl`, `.parquet` or tars.

    Raises:
        SchemaError: an id occurs twice, there is no prediction, or all boxes are fractions of their images.
        MissingFileError: no such file.
    """
    predictions: dict[str, Prediction] = {}
    for prediction in read_items(path, Prediction):
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

    A file may hold several splits, as a probe writes it: a split of which no prediction is among the references is left out, and said.

    Raises:
        SchemaError: no prediction, an id occurs twice, or one is not among the references although others of its split are, or it names none.
        MissingFileError: no such file.
    """
    predictions = by_id(path)
    known = {record.id for record in references.records}
    splits = Counter(one.split for one in predictions.values() if one.split is not None)
    scored = {one.split for one in predictions.values() if one.id in known}
    if scored and (others := {split: count for split, count in splits.items() if split not in scored}):
        counted = ", ".join(f"{count:,} of {split!r}" for split, count in others.items())
        say(f"{path}: predictions of other splits than the references' are left out: {counted}", file=sys.stderr)
        predictions = {i: one for i, one in predictions.items() if one.split not in others}
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


def warn_of_other_images(predictions: Mapping[str, Prediction], records: Iterable[Reference], where: str) -> None:
    """Say where predictions and references of one id are of other bytes: of another picture, or of the same one written anew.

    Args:
        predictions: by id; those that do not say of which bytes they are, are not compared.
        records: what they are held against.
        where: the predictions' file.
    """
    pairs = [
        (one.sha256, record)
        for record in records
        if (one := predictions.get(record.id)) is not None and one.sha256 is not None and record.sha256 is not None
    ]
    if other := [record.id for digest, record in pairs if digest not in record.image_hashes]:
        warn_once(
            f"{where}: {len(other)} of {len(pairs)} predictions are of other image files than the references of the same id, first: "
            f"{other[0]!r} (another picture, or the same one written anew)"
        )


def require(records: Iterable[Reference], keys: Sequence[str], why: str) -> None:
    """Refuse references that do not say what a table needs of them.

    Args:
        records: those that it needs it of.
        keys: names of fields.
        why: what they are needed for, for the message.

    Raises:
        SchemaError: names the first of them and the key.
    """
    for record in records:
        for key in keys:
            if getattr(record, key) is None:
                msg = f"reference {record.id!r}: key {key!r} is missing; {why}"
                raise SchemaError(msg)


def check_distinct(sets: Mapping[str, Iterable[Reference]]) -> None:
    """Refuse sets that have an id in common but not its picture: predictions are found by id.

    Raises:
        SchemaError: names both sets and the id.
    """
    homes: dict[str, tuple[str, Reference]] = {}
    for name, records in sets.items():
        for record in records:
            home, other = homes.setdefault(record.id, (name, record))
            if other is record:
                continue
            require(
                (other, record),
                ["sha256"],
                f"the sets {home!r} and {name!r} both have that id, and a prediction is found by it",
            )
            if other.image_hashes.isdisjoint(record.image_hashes):
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
