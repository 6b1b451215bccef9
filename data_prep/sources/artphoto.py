"""Artphoto: what VECBench tests of it, EEmo-Logic's `test_Artphoto.json`, or photographs named by their emotion."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, as_object, json_records, text
from data_prep.sources.indexed import Entry
from data_prep.sources.labels import MIKELS, SourceLabels, translate
from data_prep.sources.tree import Tree, key_of
from data_prep.sources.vecbench import VECBenchSource

_TABLES = ("test_Artphoto.json", "test_data/test_Artphoto.json")
_FOLDERS = ("testImages_artphoto", "artphoto", "Artphoto", "images", ".")


class ArtphotoSource(VECBenchSource):
    """Art photographs, of the eight emotions by name; files are called `<word>_<number>.jpg`, where sadness is `sad`."""

    name = "artphoto"
    sets = ("Artphoto",)

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """VECBench's rows where its file is there, else EEmo-Logic's, else the photographs by their names."""
        if self.index_files(tree):
            yield from super().entries(tree)
            return
        folder = tree.folder(*_FOLDERS)
        if (table := tree.index(*_TABLES)) is not None:
            for place, _, row in json_records(table):
                yield place.attempt(_row, place, row, folder)
            return
        found = list(tree.images_in(folder))
        if not any(isinstance(image, str) and _word_of(image).lower() in MIKELS for image in found):
            msg = "Artphoto"
            raise tree.missing(msg, "<emotion>_<number>.jpg", *_TABLES, *self.files)
        for image in found:
            if isinstance(image, SourceRefusal):
                yield image
            else:
                place = Place(str(tree.root / image), None)
                yield place.attempt(_entry, place, image, _word_of(image))


def _word_of(image: str) -> str:
    return image.rpartition("/")[2].rpartition("_")[0]


def _row(place: Place, value: object, folder: str) -> Entry:
    row = as_object(value, "a photograph")
    file, word = text(row, "image_path"), text(row, "emotion")
    if _word_of(file).lower() != word.lower():
        msg = f"contradiction: {file} is said to be of {word}"
        raise RefusedError(msg)
    return _entry(place, folder + key_of(file), word)


def _entry(place: Place, image: str, word: str) -> Entry:
    emotion = translate(word, MIKELS)
    labels: SourceLabels = {"emotion_raw": word.strip().lower()}
    if emotion is not None:
        labels["emotion"] = emotion
    return Entry(place, key_of(image), image, labels, "test")
