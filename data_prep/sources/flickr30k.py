"""Flickr30k: captions without emotions, in any of its three layouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceError, SourceRefusal
from data_prep.sources.index_files import Place, as_object, json_records, optional_text, table_rows, text
from data_prep.sources.indexed import Entry, IndexedSource, known_split
from data_prep.sources.tree import Tree, key_of
from emo_lightning.core.foreign import decode_json
from emo_lightning.core.text import shown

_CSV, _KARPATHY, _TOKEN = "flickr_annotations_30k.csv", "dataset_flickr30k.json", "results_20130124.token"
_FOLDERS = ("flickr30k_images", "flickr30k-images", "images", "Images")


class Flickr30kSource(IndexedSource):
    """The captions are the same in all layouts; where several lie side by side, one that names the splits is read."""

    name = "flickr30k"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """One entry per image."""
        index = tree.index(_CSV, _KARPATHY, _TOKEN)
        if index is None:
            msg = "the captions"
            raise tree.missing(msg, _CSV, _KARPATHY, _TOKEN)
        folder = tree.folder(*_FOLDERS)
        if index.name == _TOKEN:
            yield from _tokens(index, folder)
            return
        rows = _csv_rows(index) if index.name == _CSV else _karpathy_rows(index)
        for place, row in rows:
            yield row if isinstance(row, SourceRefusal) else place.attempt(_entry, place, folder, row)


def _entry(place: Place, folder: str, row: Mapping[str, object]) -> Entry:
    file, captions = text(row, "filename"), row.get("captions")
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        msg = f"bad captions: {shown(captions)}, expected a list of sentences"
        raise RefusedError(msg)
    sentences = [caption.strip() for caption in captions]
    split = known_split(optional_text(row, "split"))
    return Entry(place, key_of(file), folder + file, {"captions": sentences}, split, group=key_of(file))


def _csv_rows(index: Path) -> Iterator[tuple[Place, SourceRefusal | dict[str, object]]]:
    for place, row in table_rows(index, ("raw", "split", "filename")):
        if isinstance(row, SourceRefusal):
            yield place, row
            continue
        captions: object = row["raw"]
        with contextlib.suppress(SourceError):  # `_entry` refuses what is no list
            captions = decode_json(row["raw"], "raw", SourceError)
        yield place, {**row, "captions": captions}


def _karpathy_rows(index: Path) -> Iterator[tuple[Place, SourceRefusal | dict[str, object]]]:
    for place, _, value in json_records(index, "images"):
        row = place.attempt(as_object, value, "an image")
        if not isinstance(row, SourceRefusal):
            said = row.get("sentences")
            row = {
                **row,
                "captions": [s.get("raw") if isinstance(s, dict) else s for s in said] if isinstance(said, list) else said,
            }
        yield place, row


def _tokens(index: Path, folder: str) -> Iterator[Entry | SourceRefusal]:
    """`123.jpg#0<TAB>caption`: the sentences of an image need not stand together."""
    captions: dict[str, tuple[Place, dict[int, str]]] = {}
    for place, row in table_rows(index, (), delimiter="\t", names=("name", "caption")):
        if isinstance(row, SourceRefusal):
            yield row
            continue
        file, mark, position = row["name"].rpartition("#")
        if not (mark and file and position.isdecimal() and len(position) < 4):
            yield place.refuse(f"bad line: {shown(row['name'])}, expected file#number<TAB>caption")
            continue
        said = captions.setdefault(file, (place, {}))[1]
        if said.setdefault(int(position), row["caption"]) != row["caption"]:
            yield place.refuse(f"contradiction: another caption than before for {shown(row['name'])}")
    for file, (place, numbered) in captions.items():
        row_of_image = {"filename": file, "captions": [caption for _, caption in sorted(numbered.items())]}
        yield place.attempt(_entry, place, folder, row_of_image)
