"""EmoSet-118K: `train.json`, `val.json`, `test.json`, `annotation/<emotion>/*.json`, `image/<emotion>/*.jpg`."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, json_records, small_json, text
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import SourceLabels, category
from data_prep.sources.tree import Tree, key_of
from emo_lightning.core.text import shown

EMOSET_SPLITS = ("train", "val", "test")
EMOSET_ATTRIBUTES = ("brightness", "colorfulness", "scene", "object", "facial_expression", "human_action")
"""Keys of an annotation besides the emotion, all optional."""


class EmoSetSource(IndexedSource):
    """Rows are `[emotion, id, image, annotation]` as the authors document them, or `[emotion, image, annotation]`."""

    name = "emoset"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the three splits; a split whose file is missing is one refusal."""
        files = {split: tree.index(f"{split}.json") for split in EMOSET_SPLITS}
        if not any(files.values()):
            msg = "the list of images"
            raise tree.missing(msg, *(f"{split}.json" for split in EMOSET_SPLITS))
        for split, file in files.items():
            if file is None:
                yield SourceRefusal(str(tree.root / f"{split}.json"), None, "no such file: the split is missing")
                continue
            for place, _, row in json_records(file):
                yield place.attempt(_entry, place, tree, row, split)


def _entry(place: Place, tree: Tree, row: object, split: str) -> Entry:
    if not isinstance(row, list) or len(row) not in (3, 4) or not all(isinstance(cell, str) for cell in row):
        msg = f"bad row: {shown(row)}, expected [emotion, image, annotation] or [emotion, id, image, annotation]"
        raise RefusedError(msg)
    word, image, annotation_file = row[0], row[-2], row[-1]
    emotion = category(word)
    annotation = small_json(tree.file(annotation_file))
    if "emotion" in annotation and (said := category(text(annotation, "emotion"))) != emotion:
        msg = f"contradiction: the list says {emotion}, {annotation_file} says {said}"
        raise RefusedError(msg)
    labels: SourceLabels = {"emotion": emotion, "emotion_raw": word.strip().lower()}
    if attributes := {key: annotation[key] for key in EMOSET_ATTRIBUTES if annotation.get(key) is not None}:
        labels["attributes"] = attributes
    return Entry(place, key_of(image), image, labels, split)
