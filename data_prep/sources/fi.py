"""FI: a folder per emotion, or the raw release's header-less CSVs with votes, or both."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import PassedOver, RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, number, table_rows
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import SourceLabels, category
from data_prep.sources.tree import Tree, key_of, path_parts, refused_folder
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.text import shown

_FOLDERS = ("emotion_dataset", "images", "image", ".")
_COLUMNS = ("emotion", "url", "disagree", "agree")
_MAX_VOTES = 10_000


class FISource(IndexedSource):
    """People were shown an image and one emotion, and agreed or not.

    The label holds where more agreed than not; otherwise the image is without a label. The distribution gives the emotion the
    share that agreed and the rest to the other seven alike: those who disagreed were not asked what they saw instead.
    In a folder without votes its name is the label.
    """

    name = "fi"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the CSVs in the order of their names, then images in the folders that no CSV names."""
        folder = tree.folder(*_FOLDERS)
        tables = sorted(
            path.name for path in tree.root.iterdir() if path.suffix.lower() == ".csv" and not path.name.startswith(".")
        )
        emotions = [name for name in tree.subfolders(folder) if name.lower() in EMOTIONS]
        if not (tables or emotions):
            msg = "FI"
            raise tree.missing(msg, *(f"{f}/<emotion>/" for f in _FOLDERS), "*.csv (emotion,url,disagree,agree)")
        listed: dict[str, bool] = {}
        """Keys that a table names, and whether a row of them can be used."""
        said: dict[str, tuple[str, SourceLabels]] = {}
        """What the first row of each key says, and of which address."""
        for name in tables:
            table = tree.index(name)
            assert table is not None
            yield from self._table(tree, table, folder, listed, said)
        for name in tree.subfolders(folder):
            # The root may hold folders that mean nothing; a folder of images may not.
            if name.lower() not in EMOTIONS and folder == "":
                continue
            try:
                emotion = category(name)
            except RefusedError as error:
                yield refused_folder(tree, folder + name, error)
                continue
            for image in tree.images_in(folder + name):
                if isinstance(image, SourceRefusal):
                    yield image
                    continue
                key = f"{emotion}/{key_of(image.removeprefix(f'{folder}{name}/'))}"
                place = Place(str(tree.root / image), None)
                if key not in listed:
                    yield Entry(place, key, image, {"emotion": emotion, "emotion_raw": emotion})
                elif not listed[key]:
                    yield PassedOver(place.file, None, "its row is refused")

    def _table(
        self, tree: Tree, table: Path, folder: str, listed: dict[str, bool], said: dict[str, tuple[str, SourceLabels]]
    ) -> Iterator[Entry | SourceRefusal]:
        for place, row in table_rows(table, _COLUMNS, names=_COLUMNS):
            if isinstance(row, SourceRefusal):
                yield row
                continue
            entry = place.attempt(_entry, place, tree, folder, row)
            if isinstance(entry, Entry):
                entry = place.attempt(_at_one_address, entry, said)
            # Also of a row that is refused: its image is not one without votes.
            if not isinstance(key := place.attempt(_key, row), SourceRefusal):
                listed[key] = listed.get(key, False) or isinstance(entry, Entry)
            yield entry


def _key(row: dict[str, str]) -> str:
    return f"{category(row['emotion'])}/{key_of(_file_of(row['url']))}"


def _entry(place: Place, tree: Tree, folder: str, row: dict[str, str]) -> Entry:
    emotion = category(row["emotion"])
    file = _file_of(row["url"])
    no, yes = (int(number(row, key, 0, _MAX_VOTES)) for key in ("disagree", "agree"))
    labels: SourceLabels = {"emotion_raw": emotion, "votes": yes + no}
    labels["attributes"] = {"agree": yes, "disagree": no}
    if yes > no:
        rest = no / (yes + no) / (len(EMOTIONS) - 1)
        scores = {str(e): round(yes / (yes + no) if e == emotion else rest, 6) for e in EMOTIONS}
        labels = {**labels, "emotion": emotion, "emotion_scores": scores}
    return Entry(place, _key(row), _image(tree, folder, emotion, file), labels, origin=row["url"].strip())


def _at_one_address(entry: Entry, said: dict[str, tuple[str, SourceLabels]]) -> Entry:
    """The row, unless one before says the same of a file of this name at another address.

    The folder holds one file, and nobody knows of which address; the labels are the same, so the first row keeps it. Rows that say
    different things are compared later (`IndexedSource`).

    Args:
        entry: the row.
        said: address and labels by key, of the rows before.
    """
    parts = urllib.parse.urlsplit(entry.origin or "")
    address = f"{parts.netloc.lower()}{parts.path}"
    first, labels = said.setdefault(entry.key, (address, entry.labels))
    if first != address and labels == entry.labels:
        msg = f"{entry.key} is listed at {shown(first)} before, and the folder holds one file of that name"
        raise RefusedError(msg)
    return entry


def _file_of(url: str) -> str:
    """The last part of an address."""
    try:
        path = urllib.parse.urlsplit(url.strip()).path
    except ValueError as error:
        msg = f"not an address: {shown(url)}: {error}"
        raise RefusedError(msg) from None
    return path_parts(urllib.parse.unquote(path).lstrip("/"))[-1]


def _image(tree: Tree, folder: str, emotion: str, file: str) -> str:
    """Where the file of an address lies: in the folder of its emotion, or in one folder for all."""
    for name in (f"{folder}{emotion}/{file}", f"{folder}{file}"):
        if tree.has(name):
            return name
    msg = f"no such file: {folder}{emotion}/{file} or {folder}{file}; the release holds addresses, not images"
    raise RefusedError(msg)
