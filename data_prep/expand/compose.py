"""New compositions from known triplets: one or two elements replaced, rare emotions first (paper section 3.1.1)."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from data_prep.stats.graph import Combination, Node, TripletGraph
from emo_lightning.core.records import EMOTIONS, TRIPLET_PARTS, Emotion, TripletPart

_TRIES = 200
"""Draws without a new composition after which an emotion's words count as used up."""

TripletTexts = tuple[str, str, str]


@dataclass(frozen=True)
class Composition:
    """A triplet that no image shows."""

    combination: Combination
    """Background, attribute, subject, and the emotion that is intended; what the image evokes is for the annotators to say."""
    parent: Combination
    """The known combination that it was made from."""
    replaced: tuple[TripletPart, ...]
    """One or two of `TRIPLET_PARTS`."""
    novel_edges: tuple[str, ...]
    """Pairs (`kind-kind`) that no image shows together."""

    @property
    def triple(self) -> TripletTexts:
        """Without the emotion."""
        return self.combination[:3]


def emotion_counts(graph: TripletGraph) -> dict[Emotion, int]:
    """Images of each of the eight, in their order."""
    words = graph.words("emotion")
    return {emotion: words.get(str(emotion), 0) for emotion in EMOTIONS}


def rarity_weights(counts: Mapping[Emotion, int], temperature: float) -> dict[Emotion, float]:
    """Weight of each emotion that has images: count^(-1/temperature), scaled to sum 1."""
    raw = {emotion: count ** (-1 / temperature) for emotion, count in counts.items() if count}
    total = sum(raw.values())
    return {emotion: weight / total for emotion, weight in raw.items()}


def quotas(weights: Mapping[Emotion, float], count: int) -> dict[Emotion, int]:
    """Whole shares of `count` by the largest remainders; they sum to `count`."""
    exact = {emotion: weight * count for emotion, weight in weights.items()}
    shares = {emotion: int(value) for emotion, value in exact.items()}
    left = count - sum(shares.values())
    for emotion in sorted(exact, key=lambda e: (shares[e] - exact[e], e))[:left]:
        shares[emotion] += 1
    return shares


def compose(
    seeds: TripletGraph,
    known: TripletGraph,
    count: int,
    *,
    taken: Collection[TripletTexts],
    rng: random.Random,
    temperature: float,
    two_elements: float,
    edges: Literal["any", "seen"],
) -> list[Composition]:
    """Draw compositions; fewer than `count` where the words give no more.

    Args:
        seeds: combinations to start from.
        known: all combinations, for the counts and for what is new.
        count: how many.
        taken: triplets that may not come again, beside all of `known`.
        rng: decides everything.
        temperature: of `rarity_weights`.
        two_elements: share with two elements replaced.
        edges: `seen` keeps only compositions without novel edges.
    """
    counts = {e: n for e, n in emotion_counts(known).items() if any(c.emotion is e for c in seeds.combinations)}
    used = set(taken)
    found: list[Composition] = []
    exhausted: set[Emotion] = set()
    while len(found) < count:
        # What an exhausted emotion cannot give goes to the others.
        weights = rarity_weights({e: n for e, n in counts.items() if e not in exhausted}, temperature) if counts else {}
        if not weights:
            break
        for emotion, share in quotas(weights, count - len(found)).items():
            drawn = list(itertools.islice(_Draws(seeds, known, emotion, two_elements, edges).new(used, rng), share))
            found += drawn
            if len(drawn) < share:
                exhausted.add(emotion)
    # In a mixed order, a budget that ends the run early leaves the shares as they were planned.
    rng.shuffle(found)
    return found


@dataclass(frozen=True)
class _Bag:
    """Words, drawn by how often they occur."""

    words: tuple[str, ...]
    cumulative: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> _Bag:
        return cls(tuple(counts), tuple(itertools.accumulate(counts.values())))

    def draw(self, rng: random.Random) -> str:
        return rng.choices(self.words, cum_weights=self.cumulative)[0]


class _Draws:
    """Compositions for one emotion."""

    def __init__(
        self, seeds: TripletGraph, known: TripletGraph, emotion: Emotion, two_elements: float, edges: Literal["any", "seen"]
    ) -> None:
        self.known, self.emotion, self.two, self.edges = known, emotion, two_elements, edges
        self.parents = [c for c in seeds.combinations if c.emotion is emotion]
        near: dict[TripletPart, Counter[str]] = {part: Counter() for part in TRIPLET_PARTS}
        for parent in self.parents:
            for part in TRIPLET_PARTS:
                near[part][getattr(parent, part)] += len(seeds.combinations[parent])
        self.near = {part: _Bag.of(words) for part, words in near.items()}
        """Words seen with the emotion."""
        self.far = {part: _Bag.of(seeds.words(part)) for part in TRIPLET_PARTS}
        """All words: where the first give nothing new."""

    def new(self, used: set[TripletTexts], rng: random.Random) -> Iterator[Composition]:
        """Compositions until none is found in `_TRIES` draws; each is added to `used`."""
        for words in (self.near, self.far):
            failures = 0
            while failures < _TRIES:
                composition = self._draw(words, rng)
                if composition is None or composition.triple in used:
                    failures += 1
                    continue
                failures = 0
                used.add(composition.triple)
                yield composition

    def _draw(self, words: Mapping[TripletPart, _Bag], rng: random.Random) -> Composition | None:
        parent = rng.choice(self.parents)
        replaced = tuple(sorted(rng.sample(TRIPLET_PARTS, 2 if rng.random() < self.two else 1), key=TRIPLET_PARTS.index))
        parts: dict[str, str] = {part: getattr(parent, part) for part in TRIPLET_PARTS}
        for part in replaced:
            word = words[part].draw(rng)
            if word == parts[part]:
                return None
            parts[part] = word
        combination = Combination(parts["background"], parts["attribute"], parts["subject"], self.emotion)
        if self.known.has_triplet(*combination[:3]):
            return None
        novel = novel_edges(self.known, combination)
        if novel and self.edges == "seen":
            return None
        return Composition(combination, parent, replaced, novel)


def novel_edges(known: TripletGraph, combination: Combination) -> tuple[str, ...]:
    """Pairs of a combination that no image shows together, as `kind-kind`."""
    pairs: Iterator[tuple[Node, Node]] = itertools.combinations(combination.nodes(), 2)
    return tuple(f"{a.kind}-{b.kind}" for a, b in pairs if (a, b) not in known.edges)
