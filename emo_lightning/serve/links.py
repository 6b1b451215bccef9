"""The sentence in pieces, each with what it stands for: words of the triplet, and the regions that the model points at."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emo_lightning.core.records import TRIPLET_PARTS, TripletPart
from emo_lightning.core.text import SMALL_WORDS

if TYPE_CHECKING:
    from emo_lightning.inference.results import Said

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Piece:
    """Part of a sentence.

    Args:
        text: as it stands there.
        regions: numbers of the regions that it names.
        parts: of the triplet that it names.
    """

    text: str
    regions: tuple[int, ...] = ()
    parts: tuple[TripletPart, ...] = ()


def linked(said: Said) -> list[Piece]:
    """The description in pieces that together are the description; the triplet where there is none.

    A phrase is looked for as it is, then by its words, a plural and a singular counting as the same. A region whose phrase does not occur is
    linked by the subject's words, which are what boxes are asked for.

    Args:
        said: by a model.
    """
    text = said.description or " – ".join(part for part in (said.background, said.attribute, said.subject) if part)
    words = [(found.start(), found.end(), _stem(found[0])) for found in _WORD.finditer(text)]
    regions: list[set[int]] = [set() for _ in words]
    parts: list[set[TripletPart]] = [set() for _ in words]
    for number, region in enumerate(said.regions):
        places = _places(region.phrase, words) or _places(said.subject, words)
        for place in places:
            regions[place].add(number)
    for part in TRIPLET_PARTS:
        for place in _places(getattr(said, part), words):
            parts[place].add(part)
    return list(_joined(text, words, regions, parts))


def _places(phrase: str | None, words: Sequence[tuple[int, int, str]]) -> list[int]:
    """Which of the words a phrase names."""
    wanted = [_stem(word) for word in _WORD.findall(phrase or "")]
    stems = [stem for *_, stem in words]
    if whole := [n for n in range(len(stems)) if wanted and stems[n : n + len(wanted)] == wanted]:
        return [place for n in whole for place in range(n, n + len(wanted))]
    names = set(wanted) - SMALL_WORDS
    return [n for n, stem in enumerate(stems) if stem in names]


def _stem(word: str) -> str:
    """A word without its case and its plural."""
    lower = word.lower()
    for ending, rest in (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x")):
        if lower.endswith(ending) and len(lower) > len(ending) + 1:
            return lower.removesuffix(ending) + rest
    return lower[:-1] if lower.endswith("s") and not lower.endswith(("ss", "us", "is")) and len(lower) > 3 else lower


def _joined(
    text: str, words: Sequence[tuple[int, int, str]], regions: Sequence[set[int]], parts: Sequence[set[TripletPart]]
) -> Iterator[Piece]:
    """Neighbouring words that name the same are one piece, with what stands between them."""
    at = place = 0
    while place < len(words):
        if not regions[place] and not parts[place]:
            place += 1
            continue
        last = place
        while last + 1 < len(words) and (regions[last + 1], parts[last + 1]) == (regions[place], parts[place]):
            last += 1
        begin, end = words[place][0], words[last][1]
        if begin > at:
            yield Piece(text[at:begin])
        yield Piece(
            text[begin:end], tuple(sorted(regions[place])), tuple(part for part in TRIPLET_PARTS if part in parts[place])
        )
        at, place = end, last + 1
    if at < len(text):
        yield Piece(text[at:])
