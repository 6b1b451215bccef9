"""FindingEmo: `data/annotations_single.ann` (a CSV), addresses in `dataset_urls_exploded.json`, images fetched by the user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, as_object, json_records, number, table_rows, text
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import PLUTCHIK, SourceLabels
from data_prep.sources.tree import Tree, key_of

_TABLES = ("data/annotations_single.ann", "annotations_single.ann")
_ADDRESSES = ("data/dataset_urls_exploded.json", "dataset_urls_exploded.json")
_FOLDERS = ("images", "Images", "data/images", ".")
_COLUMNS = ("image_path", "valence", "arousal", "emotion")
_EXTRA = ("tags", "age", "dec_factors", "ambiguity")


class FindingEmoSource(IndexedSource):
    """Emotion expressed in the scene, one of Plutchik's 24 leaves: no map to the eight, so no image has a label.

    The leaf (`emotion_raw`) tells the intensity: strong, middle or weak within its family (`labels.PLUTCHIK`).
    """

    name = "findingemo"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the table. Addresses are optional; the first one of an image becomes its origin."""
        table = tree.index(*_TABLES)
        if table is None:
            msg = "the table of annotations"
            raise tree.missing(msg, *_TABLES)
        folder = tree.folder(*_FOLDERS)
        addresses: dict[str, str] = {}
        if (index := tree.index(*_ADDRESSES)) is not None:
            yield from _read_addresses(index, addresses)
        for place, row in table_rows(table, _COLUMNS):
            yield row if isinstance(row, SourceRefusal) else place.attempt(_entry, place, folder, row, addresses)


def _read_addresses(index: Path, addresses: dict[str, str]) -> Iterator[SourceRefusal]:
    first: dict[str, float] = {}
    for place, _, value in json_records(index):
        read = place.attempt(_address, value)
        if isinstance(read, SourceRefusal):
            yield read
            continue
        key, position, url = read
        if position == first.get(key) and url != addresses[key]:
            yield place.refuse(f"contradiction: another address with the same number for {key}")
        elif position < first.get(key, float("inf")):
            first[key], addresses[key] = position, url


def _address(value: object) -> tuple[str, float, str]:
    row = as_object(value, "an address")
    return _key(text(row, "rel_path")), number(row, "idx_url", 0, 1e9), text(row, "url")


def _key(path: str) -> str:
    # Paths of this index start with a slash that means the folder of images.
    return key_of(path.strip().lstrip("/\\"))


def _entry(place: Place, folder: str, row: dict[str, str], addresses: dict[str, str]) -> Entry:
    key = _key(text(row, "image_path"))
    word = text(row, "emotion").lower()
    if word not in PLUTCHIK:
        msg = f"unknown emotion {row['emotion']!r}; allowed: {', '.join(PLUTCHIK)}"
        raise RefusedError(msg)
    family, level = PLUTCHIK[word]
    extra = {name: row[name].strip() for name in _EXTRA if row.get(name, "").strip()}
    labels: SourceLabels = {
        "emotion_raw": word,
        "intensity_level": level,
        "valence": number(row, "valence", -3, 3),
        "arousal": number(row, "arousal", 0, 6),
        "attributes": {"family": family, **extra},
    }
    return Entry(place, key, folder + key, labels, origin=addresses.get(key))
