"""EmoArt: `Annotation.json`, and images as `Images/<Style>/<file>` on disk or in `.tar.gz` archives, which are streamed."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from data_prep.sources.base import Refusal, RefusedError
from data_prep.sources.images import MAX_BYTES
from data_prep.sources.index_files import Place, as_object, json_records, optional_text, text
from data_prep.sources.indexed import Entry, IndexedSource, listed_before
from data_prep.sources.labels import EMOART, SourceLabels, translate
from data_prep.sources.tree import SUFFIXES, Tree, canonical, key_of, path_parts

_Name = tuple[str, str]
"""(style, file): what an index, a folder and an archive of one style or of several agree on."""


class EmoArtSource(IndexedSource):
    """Five of the twelve labels have an equal among the eight (`labels.EMOART`); the other images come without a label.

    The labels of images that lie in archives are held in memory until their archive is read; images never are.
    """

    name = "emoart"

    def entries(self, tree: Tree) -> Iterator[Entry | Refusal]:
        """First what lies on disk, in the order of the index, then the archives by name."""
        index = tree.index("Annotation.json", "annotation.json")
        if index is None:
            msg = "the annotations"
            raise tree.missing(msg, "Annotation.json")
        archives = sorted(path for path in tree.root.iterdir() if path.name.endswith((".tar.gz", ".tgz", ".tar")))
        waiting: dict[_Name, Entry] = {}
        for place, _, row in json_records(index):
            entry = place.attempt(_entry, place, row)
            if isinstance(entry, Entry) and archives:
                # A second row for a picture that waits has to meet the first one here; `read` compares the others.
                name = _name(entry.key)
                if (first := waiting.get(name)) is not None:
                    entry = listed_before(entry, same=(first.key, first.labels) == (entry.key, entry.labels))
                elif not tree.has(entry.key):
                    waiting[name] = entry
                    continue
            yield entry
        for archive in archives:
            yield from self._archive(tree, archive, waiting)
        for entry in waiting.values():
            yield Refusal(
                entry.place.file, entry.place.line, f"no such image: {entry.key} is neither on disk nor in an archive"
            )

    def _archive(self, tree: Tree, archive: Path, waiting: dict[_Name, Entry]) -> Iterator[Entry | Refusal]:
        place = Place(str(archive), None)
        file = place.attempt(tree.file, archive.name)
        if isinstance(file, Refusal):
            yield file
            return
        style = archive.name.split(".")[0]
        try:
            # "r|*": read once from front to end, never unpacked to disk.
            with tarfile.open(file, "r|*") as members:
                for member in members:
                    if member.isdir() or not member.name.lower().endswith(SUFFIXES):
                        continue
                    taken = place.attempt(_member, members, member, style, waiting)
                    yield taken if isinstance(taken, Entry) else Refusal(f"{archive}/{member.name}", None, taken.reason)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            yield Refusal(str(archive), None, f"broken archive: {error}")


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
    return canonical(parts[-2]), canonical(parts[-1])


def _member(members: tarfile.TarFile, member: tarfile.TarInfo, style: str, waiting: dict[_Name, Entry]) -> Entry:
    parts = path_parts(member.name)
    if not member.isreg():
        msg = "not a regular file"
        raise RefusedError(msg)
    name = (canonical(parts[-2] if len(parts) > 1 else style), canonical(parts[-1]))
    if name not in waiting and (style, name[1]) in waiting:
        name = (style, name[1])
    if name not in waiting:
        msg = "no annotation: the index does not name it, or names an image on disk or read before"
        raise RefusedError(msg)
    if member.size > MAX_BYTES:
        del waiting[name]
        msg = f"too large: {member.size} bytes, at most {MAX_BYTES} are read"
        raise RefusedError(msg)
    data = members.extractfile(member)
    assert data is not None
    image = data.read()
    return replace(waiting.pop(name), image=image)
