"""Emotion6: `images/<keyword>/N.jpg` and `ground_truth.txt` with valence, arousal and the votes of people."""

from __future__ import annotations

from collections.abc import Iterator

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, number, table_rows
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import EKMAN, SourceLabels, shares, top
from data_prep.sources.tree import Tree, key_of

_TABLE = "ground_truth.txt"
_VOTES = (*EKMAN, "neutral")
_TOLERANCE = 0.02


class Emotion6Source(IndexedSource):
    """Ekman's six against the eight: four have an equal of the same name, joy and surprise have none (`labels.EKMAN`).

    The class (`emotion_raw`) is the argmax of the votes without neutral; on a tie there is none. Where it is anger, disgust,
    fear or sadness, it is the label as well. There are no `emotion_scores`: the votes for joy and surprise cannot be shared
    out among the eight without inventing; all seven shares stand in `emotion_scores_raw`. The folder names the word by which
    an image was searched for, not what people felt: it is kept beside, as `keyword`.
    """

    name = "emotion6"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """Rows of the table."""
        table = tree.index(_TABLE)
        if table is None:
            msg = "the table of votes"
            raise tree.missing(msg, _TABLE)
        folder = tree.folder("images", "Images", ".")
        columns = ("image_filename", "valence", "arousal", *(f"prob. {word}" for word in _VOTES))
        for place, row in table_rows(table, columns, delimiter="\t"):
            yield row if isinstance(row, SourceRefusal) else place.attempt(_entry, place, folder, row)


def _entry(place: Place, folder: str, row: dict[str, str]) -> Entry:
    file = row["image_filename"]
    key = key_of(file)
    votes = {word: number(row, f"prob. {word}", 0, 1) for word in _VOTES}
    if abs(sum(votes.values()) - 1) > _TOLERANCE:
        msg = f"bad votes: their shares sum to {sum(votes.values()):.3f}, expected 1"
        raise RefusedError(msg)
    labels: SourceLabels = {
        "emotion_scores_raw": shares(votes),
        "valence": number(row, "valence", 1, 9),
        "arousal": number(row, "arousal", 1, 9),
    }
    winner = top({word: share for word, share in votes.items() if word in EKMAN})
    if winner is not None:
        labels["emotion_raw"] = winner
        if (emotion := EKMAN[winner]) is not None:
            labels["emotion"] = str(emotion)
    if "/" in key:
        labels["attributes"] = {"keyword": key.split("/")[0]}
    return Entry(place, key, folder + file, labels)
