"""ArtEmis: a CSV with one row per annotator, images as `wikiart/<art_style>/<painting>.jpg`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place, optional_text, table_rows, text
from data_prep.sources.indexed import Entry, IndexedSource, known_split
from data_prep.sources.labels import SOMETHING_ELSE, SourceLabels, category, over_the_eight, shares, top
from data_prep.sources.tree import Tree, key_of
from emo_lightning.core.names import composed
from emo_lightning.core.text import shown

_TABLE = "artemis_dataset_release_v0.csv"
_COLUMNS = ("art_style", "painting", "emotion", "utterance")


@dataclass
class _Artwork:
    place: Place
    splits: set[str | None] = field(default_factory=set)
    votes: Counter[str] = field(default_factory=Counter)
    choices: list[list[str]] = field(default_factory=list)
    utterances: list[str] = field(default_factory=list)


class ArtEmisSource(IndexedSource):
    """Votes of several people per artwork, on the eight or "something else".

    The label is the choice that alone has the most votes of all nine. The distribution is over the votes on the eight, and
    only where these are more than half; otherwise the artwork is without one. A painting that stands under several styles is
    one group. The release names no splits (the authors draw 85/5/10 by artwork): a column `split` is followed if there is one.
    """

    name = "artemis"

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """One entry per artwork, in the order of their first rows; the table is read to its end before the first image."""
        table = tree.index(_TABLE) or _only_table(tree)
        folder = tree.folder("wikiart", "WikiArt", "images", ".")
        artworks: dict[tuple[str, str], _Artwork] = {}
        for place, row in table_rows(table, _COLUMNS):
            refusal = row if isinstance(row, SourceRefusal) else place.attempt(_vote, artworks, place, row)
            if refusal is not None:
                yield refusal
        for (style, painting), artwork in artworks.items():
            yield artwork.place.attempt(_entry, folder, style, painting, artwork)


def _only_table(tree: Tree) -> Path:
    tables = sorted(path.name for path in tree.root.iterdir() if path.suffix.lower() == ".csv")
    if len(tables) != 1:
        found = f"; found {', '.join(tables)}" if tables else ""
        msg = "the table of votes"
        raise tree.missing(msg, f"{_TABLE}, or a single *.csv{found}")
    table = tree.index(tables[0])
    assert table is not None
    return table


def _vote(artworks: dict[tuple[str, str], _Artwork], place: Place, row: dict[str, str]) -> None:
    word = row["emotion"].strip().lower()
    if word != SOMETHING_ELSE:
        word = category(row["emotion"])
    name = composed(text(row, "art_style")), composed(text(row, "painting"))
    split = known_split(optional_text(row, "split"))
    artwork = artworks.setdefault(name, _Artwork(place))
    artwork.splits.add(split)
    artwork.votes[word] += 1
    artwork.choices.append([word])
    if utterance := row["utterance"].strip():
        artwork.utterances.append(utterance)


def _entry(folder: str, style: str, painting: str, artwork: _Artwork) -> Entry:
    if len(artwork.splits) > 1:
        msg = f"several splits: {shown(sorted(map(str, artwork.splits)))} for {style}/{painting}"
        raise RefusedError(msg)
    key = key_of(f"{style}/{painting}")
    votes, total = artwork.votes, artwork.votes.total()
    labels: SourceLabels = {"emotion_scores_raw": shares(votes), "votes": total, "captions": artwork.utterances}
    labels["choices"] = artwork.choices
    winner = top(votes)
    if winner is not None:
        labels["emotion_raw"] = winner
        if winner != SOMETHING_ELSE:
            labels["emotion"] = winner
    if 2 * votes[SOMETHING_ELSE] < total:
        labels["emotion_scores"] = over_the_eight(votes)
    labels["attributes"] = {"art_style": style}
    return Entry(artwork.place, key, f"{folder}{style}/{painting}.jpg", labels, artwork.splits.pop(), group=painting)
