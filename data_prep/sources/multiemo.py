"""MultiEmo-Bench: how many of twenty people chose each of the eight emotions. Its files were not seen by us: what is there is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, as_object, json_records, number, table_rows
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import SourceLabels, over_the_eight, top
from data_prep.sources.tree import Tree, key_of
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.text import printable

_ENDINGS = (".csv", ".json", ".jsonl")
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_MAX_VOTES = 1000


class MultiEmoSource(IndexedSource):
    """People chose every emotion that they felt: votes over their sum are the distribution, the most voted one is the label, none on a tie.

    Whatever the file is called, a row of it is used if it has a number of votes for each of the eight, as keys of its own or of one object
    in it, and exactly one text that names a picture. Any other row is refused, with the keys that it has.
    """

    name = "multiemo"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the only table, or the only JSON file, in the folder."""
        files = sorted(path.name for path in tree.root.iterdir() if path.suffix.lower() in _ENDINGS)
        if len(files) != 1:
            msg = "the file of votes (a layout that was not seen: the only .csv, .json or .jsonl in the folder is read)"
            raise tree.missing(msg, f"one file; found {', '.join(files) or 'none'}")
        file = tree.index(files[0])
        assert file is not None
        for place, row in _rows(file):
            yield place.attempt(_entry, place, tree, row)


def _rows(file: Path) -> Iterator[tuple[Place, object]]:
    if file.suffix.lower() == ".csv":
        yield from table_rows(file, tuple(map(str, EMOTIONS)))
        return
    for place, key, value in json_records(file):
        # The key of an object's member may be the picture's name.
        yield place, {"": key, **value} if key and isinstance(value, dict) else value


def _entry(place: Place, tree: Tree, value: object) -> Entry:
    row = as_object(value, "an image")
    votes = _votes(row)
    if not sum(votes.values()):
        msg = "bad votes: nobody chose any of the eight"
        raise RefusedError(msg)
    names = [one.strip() for one in row.values() if isinstance(one, str) and one.strip().lower().endswith(_PICTURES)]
    if len(set(names)) != 1:
        msg = f"bad row: {len(set(names))} texts name a picture, expected one; found the keys {_keys(row)}"
        raise RefusedError(msg)
    name = key_of(names[0])
    image = next((folder + name for folder in ("", "images/") if tree.has(folder + name)), name)
    labels: SourceLabels = {"emotion_scores": over_the_eight(votes), "chosen": votes, "votes": sum(votes.values())}
    if winner := top(votes):
        labels["emotion"] = labels["emotion_raw"] = winner
    return Entry(place, name, image, labels, "test")


def _votes(row: Mapping[str, object]) -> dict[str, int]:
    for said in (row, *(one for one in row.values() if isinstance(one, dict))):
        named = {key.strip().lower(): key for key in said if isinstance(key, str)}
        if all(str(emotion) in named for emotion in EMOTIONS):
            return {str(emotion): _whole(said, named[str(emotion)]) for emotion in EMOTIONS}
    msg = f"bad row: no votes for each of {', '.join(EMOTIONS)}; found the keys {_keys(row)}"
    raise RefusedError(msg)


def _whole(row: Mapping[str, object], key: str) -> int:
    found = number(row, key, 0, _MAX_VOTES)
    if found != int(found):
        msg = f"bad votes: {key} is {found:g}, expected a whole number of people"
        raise RefusedError(msg)
    return int(found)


def _keys(row: Mapping[str, object]) -> str:
    inner = [f"{key} ({', '.join(map(str, value))})" if isinstance(value, dict) else str(key) for key, value in row.items()]
    return printable(", ".join(inner))[:300]
