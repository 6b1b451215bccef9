"""Images with labels of one's own: a folder for each label, or a table that names images and labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceError, SourceRefusal
from data_prep.sources.index_files import Place, column_of, table_rows, text
from data_prep.sources.indexed import SPLIT_BY_WORD, Entry, IndexedSource, known_split
from data_prep.sources.labels import SourceLabels
from data_prep.sources.tree import Tree, key_of, refused_folder
from emo_lightning.core.label_map import EMOTION_BY_NAME, LabelMap, emotion_of, key_of_label
from emo_lightning.core.records import SchemaError

_IMAGE_COLUMNS = ("image", "file", "path", "filename", "image_path", "file_name")
_LABEL_COLUMNS = ("emotion", "label", "class", "category")
_TABLES = (".csv", ".tsv")


class LabelledSource(IndexedSource):
    """Each image has one label, which a map translates to one of the eight emotions, or to none.

    Args:
        name: written as the source into every record.
        licence: of all images, if known.
        labels: word -> emotion; the eight by their own names where nothing else is declared.
    """

    def __init__(self, name: str = "labelled", licence: str | None = None, labels: LabelMap = EMOTION_BY_NAME) -> None:
        super().__init__(licence)
        self.name = name
        self.labels = labels
        self._table: str | None = None

    def open(self, path: Path) -> Tree:
        """The folder itself, or the one of the table, below which its images lie."""
        if path.suffix.lower() not in _TABLES:
            self._table, self.whole_folder = None, True
            return Tree(path)
        if not path.is_file():
            msg = f"{path}: no such file"
            raise SourceError(msg)
        self._table, self.whole_folder = path.name, False
        return Tree(path.parent)

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the table in its order; else images in the order of the folders' names."""
        if self._table is not None:
            yield from self._rows(tree.root / self._table)
            return
        folders = tree.subfolders("")
        if not folders:
            msg = "a folder for each label"
            raise tree.missing(msg, "<label>/", "train/<label>/")
        # Splits hold the folders of labels; a label may be called like a split only where the map has it.
        splits = [name for name in folders if name.lower() in SPLIT_BY_WORD and key_of_label(name) not in self.labels]
        for split in splits:
            for name in tree.subfolders(f"{split}/"):
                yield from self._folder(tree, f"{split}/{name}", name, SPLIT_BY_WORD[split.lower()])
        for name in folders:
            if name not in splits:
                yield from self._folder(tree, name, name, None)

    def _folder(self, tree: Tree, folder: str, label: str, split: str | None) -> Iterator[Entry | SourceRefusal]:
        try:
            labels = self._said(label)
        except RefusedError as error:
            yield refused_folder(tree, folder, error)
            return
        for image in tree.images_in(folder):
            if isinstance(image, SourceRefusal):
                yield image
            else:
                yield Entry(Place(str(tree.root / image), None), key_of(image), image, labels, split)

    def _rows(self, table: Path) -> Iterator[Entry | SourceRefusal]:
        # Between tabs a quote is a letter, unless the header has some.
        for place, row in table_rows(table, (_IMAGE_COLUMNS, _LABEL_COLUMNS), delimiter="\t"):
            yield row if isinstance(row, SourceRefusal) else place.attempt(self._entry, place, row)

    def _entry(self, place: Place, row: dict[str, str]) -> Entry:
        file, label = (text(row, column_of(row, names)) for names in (_IMAGE_COLUMNS, _LABEL_COLUMNS))
        return Entry(place, key_of(file), file, self._said(label), known_split(row.get("split")))

    def _said(self, word: str) -> SourceLabels:
        try:
            emotion = emotion_of(word, self.labels)
        except SchemaError as error:
            raise RefusedError(str(error)) from None
        labels: SourceLabels = {"emotion_raw": key_of_label(word)}
        return labels if emotion is None else {**labels, "emotion": str(emotion)}
