"""EmoVerse's own release in its two schemas: JSON records beside `images/`, and Parquet with the images inside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from data_prep.sources.base import RefusedError, SourceError, SourceRefusal
from data_prep.sources.index_files import Place, as_object, json_records, number, optional_text, text
from data_prep.sources.indexed import Entry, IndexedSource, known_split
from data_prep.sources.labels import SourceLabels, category
from data_prep.sources.places import RowCount
from data_prep.sources.tree import Tree, key_of
from emo_lightning.core.foreign import as_number
from emo_lightning.core.parquet import parquet_rows
from emo_lightning.core.records import Box
from emo_lightning.core.text import shown

DES_DIM = 1024
"""Length of the published embedding (paper, section 3.1.2)."""
_OLDER = {"description": "analysis", "attribute": "adjective", "subject": "noun", "confidence": "intensity"}
"""Older internal names of the same keys."""
_COLUMNS = {
    "emotion_category": "emotion",
    "confidence_score": "confidence",
    "DES_representation": "DES",
    "bounding_box": "bbox",
}
"""Columns of the Parquet files by the keys of the JSON records."""
_PARQUET_REQUIRED = ("image", "emotion_category")
_TEXTS: tuple[Literal["description", "background", "attribute", "subject"], ...] = (
    "description",
    "background",
    "attribute",
    "subject",
)


class EmoVerseSource(IndexedSource):
    """PATH is the folder of the release, or one of its JSON files (images are then looked for beside it).

    JSON records keep their own `id` as the key; Parquet rows have none, so the sha256 of the image is theirs. `bbox` becomes
    regions of the subject. `mask_path` is kept as text: the release does not say how its masks are encoded.
    """

    name = "emoverse"

    def __init__(self, licence: str | None = None) -> None:
        super().__init__(licence)
        self._file: str | None = None

    def open(self, path: Path) -> Tree:
        """The tree at `path`, or around it if it is a file."""
        self._file = path.name if path.is_file() else None
        # Beside a file that was named may lie anything.
        self.whole_folder = self._file is None
        return Tree(path.parent if self._file else path)

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Records of the JSON files, or rows of the Parquet files, file by file in the order of their names."""
        if self._file is not None:
            files, tables = [self._file], []
        else:
            files = _names(tree, (".", "annotations"), (".json", ".jsonl"))
            tables = _names(tree, (".", "data"), (".parquet",))
        if files and tables:
            msg = (
                f"{tree.root}: holds JSON records ({files[0]}, …) and Parquet ({tables[0]}, …), two copies of the same; "
                "name one JSON file, or the folder of the Parquet files alone"
            )
            raise SourceError(msg)
        if not (files or tables):
            msg = "the annotations"
            raise tree.missing(msg, "*.json", "*.jsonl", "annotations/*.json", "data/train-*.parquet", "*.parquet")
        for name in files or tables:
            file = tree.index(name)
            assert file is not None
            split = _split_of(file)
            if file.suffix.lower() == ".parquet":
                yield from _parquet(file, split)
                continue
            for place, key, value in json_records(file):
                yield place.attempt(_record, place, key, value, split)


def _names(tree: Tree, folders: tuple[str, ...], endings: tuple[str, ...]) -> list[str]:
    """Files of these folders with one of these endings, in any case."""
    places = [tree.root / folder for folder in folders]
    paths = [path for place in places if place.is_dir() for path in place.iterdir() if path.suffix.lower() in endings]
    return sorted(path.relative_to(tree.root).as_posix() for path in paths if not path.name.startswith("."))


def _split_of(file: Path) -> str | None:
    """The split that a file's name starts or ends with, e.g. `train-00000-of-00010.parquet`, `emoverse_test.json`."""
    words = file.stem.lower().replace("_", "-").split("-")
    named = {name for word in (words[0], words[-1]) if (name := known_split(word) if word.isalpha() else None)}
    known = named & {"train", "val", "test"}
    return known.pop() if len(known) == 1 else None


def _record(place: Place, key: str, value: object, split: str | None) -> Entry:
    row = as_object(value, "a record")
    row = {**row, **{new: row[old] for new, old in _OLDER.items() if new not in row and old in row}}
    name = _id(row, key)
    image = text(row, "image_path")
    return Entry(
        place,
        name,
        image,
        _labels(row),
        known_split(optional_text(row, "split")) or split,
        boxes=_boxes(row.get("bbox")),
        phrase=_phrase(row),
        origin=key_of(image),
    )


def _id(row: Mapping[str, object], key: str) -> str:
    """A text or a whole number, or the key under which the record stands."""
    found = row.get("id")
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if (name := optional_text(row, "id") or key.strip()) and name.isprintable():
        return name
    msg = f"key 'id' is {shown(name) if name else 'missing'}: expected printable text"
    raise RefusedError(msg)


def _parquet(file: Path, split: str | None) -> Iterator[Entry | SourceRefusal]:
    rows = RowCount(file)
    for number_of_row, row in enumerate(parquet_rows(file, SourceError, required=_PARQUET_REQUIRED)):
        place = rows.place(f"{file}[{number_of_row}]", None)
        yield place.attempt(_row, place, row, split)


def _row(place: Place, cells: Mapping[str, object], split: str | None) -> Entry:
    row = {_COLUMNS.get(key, key): value for key, value in cells.items()}
    image = row["image"]
    data = image.get("bytes") if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        msg = f"no image: column 'image' is {shown(image)}, expected the encoded bytes"
        raise RefusedError(msg)
    flat = row.get("bbox") or []
    if not isinstance(flat, list):
        msg = f"bad box: bounding_box is {shown(flat)}, expected a list of numbers"
        raise RefusedError(msg)
    if len(flat) % 4:
        msg = f"bad box: bounding_box has {len(flat)} numbers, expected four by four"
        raise RefusedError(msg)
    boxes = [dict(zip(("x1", "y1", "x2", "y2"), flat[i : i + 4], strict=True)) for i in range(0, len(flat), 4)]
    path = optional_text(image, "path") if isinstance(image, dict) else None
    key = hashlib.sha256(data).hexdigest()
    return Entry(place, key, data, _labels(row), split, boxes=_boxes(boxes), phrase=_phrase(row), origin=path or None)


def _labels(row: Mapping[str, object]) -> SourceLabels:
    word = text(row, "emotion")
    labels: SourceLabels = {"emotion": category(word), "emotion_raw": word.lower()}
    for key in _TEXTS:
        if (said := optional_text(row, key)) is not None:
            labels[key] = said
    if row.get("confidence") is not None:
        labels["confidence_raw"] = number(row, "confidence", 0, 100)
    if row.get("DES") is not None and row["DES"] != []:
        labels["des"] = _des(row["DES"])
    extra = {key: row[key] for key in ("mask_path", "source") if row.get(key)}
    return {**labels, "attributes": extra} if extra else labels


def _des(value: object) -> list[float]:
    if not isinstance(value, list) or len(value) != DES_DIM:
        msg = f"bad DES: {shown(value)[:60]}, expected {DES_DIM} numbers"
        raise RefusedError(msg)
    numbers = [number for x in value if (number := as_number(x)) is not None]
    if len(numbers) < len(value):
        msg = "bad DES: not every element is a finite number"
        raise RefusedError(msg)
    return numbers


def _boxes(value: object) -> tuple[Box, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        msg = f"bad box: bbox is {shown(value)}, expected a list of x1, y1, x2, y2"
        raise RefusedError(msg)
    boxes = []
    for box in value:
        corners = as_object(box, "a box")
        x1, y1, x2, y2 = (number(corners, key, -1e6, 1e6) for key in ("x1", "y1", "x2", "y2"))
        boxes.append((x1, y1, x2, y2))
    return tuple(boxes)


def _phrase(row: Mapping[str, object]) -> str:
    """What the boxes show: the subject with its attribute, as far as the row names them."""
    return " ".join(said for key in ("attribute", "subject") if (said := optional_text(row, key)) is not None)
