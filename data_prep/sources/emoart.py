"""EmoArt: `Annotation.json`, and images as `Images/<Style>/<file>` on disk or in `.tar.gz` archives, which are streamed."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.sources.archives import Archive, BrokenArchiveError
from data_prep.sources.base import PassedOver, RefusedError, Repeat, SourceRefusal
from data_prep.sources.index_files import Place, as_object, json_records, optional_text, text
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import EMOART, SourceLabels, translate
from data_prep.sources.tree import Tree, key_of, path_parts
from emo_lightning.core.images import IMAGE_SUFFIXES
from emo_lightning.core.names import composed

_INDEX = ("Annotation.json", "annotation.json")

_Name = tuple[str, str]
"""(style, file): what an index, a folder and an archive of one style or of several agree on."""


class EmoArtSource(IndexedSource):
    """Five of the twelve labels have an equal among the eight (`labels.EMOART`); the other images come without a label.

    The labels of images that lie in archives are held in memory until their archive is read; images never are.
    """

    name = "emoart"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """First what lies on disk, in the order of the index, then the archives by name."""
        index = tree.index(*_INDEX)
        if index is None:
            msg = "the annotations"
            raise tree.missing(msg, "Annotation.json")
        archives = sorted(path for path in tree.root.iterdir() if path.name.lower().endswith((".tar.gz", ".tgz", ".tar")))
        waiting: dict[_Name, Entry] = {}
        for entry in self._rows(index):
            if isinstance(entry, Entry) and archives:
                name = _name(entry.key)
                if (first := waiting.get(name)) is not None:
                    yield _again(first, entry)
                    continue
                if not tree.has(entry.key):
                    waiting[name] = entry
                    continue
            yield entry
        for archive in archives:
            yield from self._archive(tree, archive, waiting)
        for entry in waiting.values():
            yield SourceRefusal(
                entry.place.file, entry.place.line, f"no such image: {entry.key} is neither on disk nor in an archive"
            )

    def said(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """The index alone: the archives say nothing of labels."""
        index = tree.index(*_INDEX)
        return iter(()) if index is None else self._rows(index)

    def _rows(self, index: Path) -> Iterator[Entry | SourceRefusal]:
        for place, _, row in json_records(index):
            yield place.attempt(_entry, place, row)

    def _archive(self, tree: Tree, archive: Path, waiting: dict[_Name, Entry]) -> Iterator[Entry | SourceRefusal]:
        place = Place(str(archive), None)
        file = place.attempt(tree.file, archive.name)
        if isinstance(file, SourceRefusal):
            yield file
            return
        style = archive.name.split(".")[0]
        opened = Archive(file)
        try:
            for member in opened.members():
                where = f"{archive}/{member.name}"
                if member.isdir():
                    continue
                if not member.name.lower().endswith(IMAGE_SUFFIXES):
                    yield PassedOver(where, None, "not a picture, in an archive")
                    continue
                taken = place.attempt(_member, opened, member, style, waiting)
                yield taken if isinstance(taken, Entry) else SourceRefusal(where, None, taken.reason)
        except BrokenArchiveError as error:
            yield SourceRefusal(str(archive), None, f"broken archive: {error}")


def _again(first: Entry, entry: Entry) -> Entry | SourceRefusal:
    """What a second row is for a picture that waits for its archive; one that contradicts the first is found by `read`."""
    place = entry.place
    if entry.key != first.key:
        return SourceRefusal(place.file, place.line, f"another path of the same picture: {entry.key} and {first.key}")
    return Repeat(place.file, place.line, f"listed before: {entry.key}") if entry.labels == first.labels else entry


def _entry(place: Place, value: object) -> Entry:
    row = as_object(value, "a record")
    image = text(row, "image_path")
    name = key_of(image)
    _name(name)
    description = as_object(row.get("description"), "'description'")
    first, second, third = (
        as_object(description.get(f"{number}_section"), f"'{number}_section'") for number in ("first", "second", "third")
    )
    labels: SourceLabels = {}
    if (word := optional_text(third, "dominant_emotion")) is not None:
        labels["emotion_raw"] = word.lower()
        if (emotion := translate(word, EMOART)) is not None:
            labels["emotion"] = emotion
    if (level := _level(third, "emotional_arousal_level", ("low", "high"))) is not None:
        labels["arousal_level"] = level
    if (level := _level(third, "emotional_valence", ("negative", "positive"))) is not None:
        labels["valence_level"] = level
    if (said := optional_text(first, "description")) is not None:
        labels["description"] = said
    attributes = {
        "visual_attributes": second.get("visual_attributes"),
        "emotional_impact": second.get("emotional_impact"),
        "healing_effects": third.get("healing_effects"),
    }
    labels["attributes"] = {key: value for key, value in attributes.items() if value}
    return Entry(place, name, name, labels)


def _level(section: Mapping[str, object], key: str, allowed: tuple[str, ...]) -> str | None:
    word = optional_text(section, key)
    if word is not None and word.lower() not in allowed:
        msg = f"unknown {key} {word!r}; allowed: {', '.join(allowed)}"
        raise RefusedError(msg)
    return None if word is None else word.lower()


def _name(image: str) -> _Name:
    parts = path_parts(image)
    if len(parts) < 2:
        msg = f"no style: image_path {image!r} is no Images/<Style>/<file>"
        raise RefusedError(msg)
    return composed(parts[-2]), composed(parts[-1])


def _member(archive: Archive, member: tarfile.TarInfo, style: str, waiting: dict[_Name, Entry]) -> Entry:
    parts = path_parts(member.name)
    name = (composed(parts[-2] if len(parts) > 1 else style), composed(parts[-1]))
    if name not in waiting and (style, name[1]) in waiting:
        name = (style, name[1])
    if name not in waiting:
        # A link says nothing of an image, whatever its name.
        reason = (
            "no annotation: the index does not name it, or names an image on disk or read before"
            if member.isreg()
            else "not a regular file"
        )
        raise RefusedError(reason)
    try:
        image = archive.read(member)
    except RefusedError:
        if member.isreg():
            del waiting[name]
        raise
    return replace(waiting.pop(name), image=image)
