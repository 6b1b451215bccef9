"""Which images show the same, which of them is kept, and which have to stay in one split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.dedup.pairs import Edges, Hashes, components, hash_distance
from data_prep.dedup.phash import MIRROR_BITS, wholes

DuplicateReason = Literal["sha256", "phash", "pixels", "embedding", "chain"]
"""What an item that is left out has in common with the one that is kept: its bytes; a hash within the threshold; pixels, one of the two
showing a part of the other; an embedding; or only the group, through images between them, and a hash within `Thresholds.chain`."""


@dataclass(frozen=True)
class Candidate:
    """An item, as far as it matters here."""

    id: str
    source: str
    image: int
    """Number of its image; items of equal bytes share it."""
    pixels: int
    group: str | None
    """As its source says."""


@dataclass(frozen=True)
class Dropped:
    """An item that is left out."""

    item_id: str
    kept_id: str
    how: DuplicateReason
    distance: float
    """Bits (sha256: 0, phash and chain), 1 − correlation (pixels), or 1 − cosine (embedding)."""


@dataclass(frozen=True)
class ChainMember:
    """An item of a chain."""

    item_id: str
    kept_id: str
    """Itself, where it is kept."""
    how: DuplicateReason | None
    """None: it is kept."""
    distance: float
    """To the one that is kept instead, see `Dropped`; of an item that is kept: bits to the foremost of the chain."""


@dataclass(frozen=True)
class Chain:
    """A group of which not all are like the one that is kept: they hang together through images between them."""

    members: tuple[ChainMember, ...]
    """Foremost first, each item that is kept before those that are left out for it."""

    @property
    def split_off(self) -> tuple[ChainMember, ...]:
        """Items that are kept beside the foremost, being too far from it."""
        return tuple(member for member in self.members[1:] if member.how is None)


@dataclass(frozen=True)
class DedupDecision:
    """What dedup found."""

    dropped: list[Dropped]
    """By item id."""
    groups: dict[str, str]
    """Items of which near ones exist: the group that they stay together in. An item that has no neighbour is not here."""
    sizes: Counter[int] = field(default_factory=Counter)
    """Groups of duplicates by their number of items."""
    near_sizes: Counter[int] = field(default_factory=Counter)
    """Groups that stay in one split, of at least two items of different images."""
    chains: list[Chain] = field(default_factory=list)
    """By the id of their foremost item."""


@dataclass(frozen=True)
class Likeness:
    """What is known of the images, by their number."""

    prints: Sequence[Hashes]
    """Fingerprints (uint64), none for plain images."""
    hash_edges: Edges
    """Up to the wider threshold, enough of them for every group."""
    pixel_edges: Edges
    """1 − correlation of the pairs that were registered."""
    embedding_edges: Edges
    vectors: NDArray[np.float16] | None


@dataclass(frozen=True)
class Thresholds:
    """The first of each pair makes duplicates, the second (wider) makes groups that stay in one split."""

    bits: tuple[int, int]
    correlation: tuple[float, float]
    cosine: tuple[float, float]
    chain: int = 10
    """Bits up to which an item is left out that is like the one that is kept only through other images; a farther one is kept."""


def decide(items: Sequence[Candidate], likeness: Likeness, thresholds: Thresholds, priority: Sequence[str]) -> DedupDecision:
    """Groups by union-find; in each the item of the foremost source is kept, then the largest, then the first by id.

    A chain of look-alikes may lead far from the one that is kept: of the items that are too far from it the foremost is kept, too, and so
    on. So every item that is left out is near the one that is kept instead, whatever the order of items and images.

    Args:
        items: all, in any order.
        likeness: of their images.
        thresholds: bits, correlations and cosines.
        priority: sources, foremost first; those that are not named come after them, all alike.
    """
    images = len(likeness.prints)
    same = components(images, *_edges(likeness, thresholds, 0))
    rank = {source: position for position, source in enumerate(priority)}
    of_group: dict[int, list[Candidate]] = defaultdict(list)
    for item in items:
        of_group[same[item.image]].append(item)
    fitted = {(i, j): d for i, j, d in zip(*likeness.pixel_edges, strict=True)}
    dropped: list[Dropped] = []
    sizes: Counter[int] = Counter()
    chains: list[Chain] = []
    for members in of_group.values():
        if len(members) == 1:
            continue
        ordered = sorted(members, key=lambda item: (rank.get(item.source, len(rank)), -item.pixels, item.id))
        stars = _stars(ordered, likeness, thresholds, fitted)
        sizes.update(1 + len(star.dropped) for star in stars if star.dropped)
        dropped += [one for star in stars for one in star.dropped]
        if len(stars) > 1 or any(one.how == "chain" for one in stars[0].dropped):
            chains.append(_chain(stars))
    groups, near_sizes = _near_groups(items, images, _edges(likeness, thresholds, 1))
    chains.sort(key=lambda chain: chain.members[0].item_id)
    return DedupDecision(sorted(dropped, key=lambda d: d.item_id), groups, sizes, near_sizes, chains)


@dataclass(frozen=True)
class _Star:
    """An item that is kept, and those that are left out for it."""

    kept: Candidate
    bits: float
    """To the foremost of the group."""
    dropped: list[Dropped]


def _stars(
    ordered: Sequence[Candidate], likeness: Likeness, thresholds: Thresholds, fitted: dict[tuple[int, int], float]
) -> list[_Star]:
    """The foremost item with all that are near it; of the rest the foremost, and so on."""
    views = _Views([likeness.prints[item.image] for item in ordered])
    to_first = views.bits(0)
    stars, rest = [], list(range(len(ordered)))
    while rest:
        kept, *others = rest
        bits = views.bits(kept)
        found = {i: _dropped(ordered[i], ordered[kept], int(bits[i]), likeness, thresholds, fitted) for i in others}
        stars.append(_Star(ordered[kept], float(to_first[kept]), [one for one in found.values() if one is not None]))
        rest = [i for i, one in found.items() if one is None]
    return stars


def _chain(stars: Sequence[_Star]) -> Chain:
    members: list[ChainMember] = []
    for number, star in enumerate(stars):
        members.append(ChainMember(star.kept.id, star.kept.id, None, star.bits if number else 0.0))
        members += [ChainMember(one.item_id, one.kept_id, one.how, one.distance) for one in star.dropped]
    return Chain(tuple(members))


class _Views:
    """Hashes of the images of a group as wholes, to measure all of them from one at once."""

    def __init__(self, prints: Sequence[Hashes]) -> None:
        self._shown = np.array([len(hashes) > 0 for hashes in prints])
        # With its border and without: one or two of each.
        views = [wholes(hashes) if len(hashes) else np.zeros(1, np.uint64) for hashes in prints]
        self._of = np.stack([np.stack([view[0], view[-1]]) for view in views])

    def bits(self, of: int) -> NDArray[np.int64]:
        """(images,) to all of them from the image with this number; 64 where one shows nothing (see `between`)."""
        near = hash_distance(self._of[of][:, None, None], self._of[None], MIRROR_BITS).min(axis=(0, 2))
        found: NDArray[np.int64] = np.where(self._shown & self._shown[of], near, 64).astype(np.int64)
        return found


def _edges(likeness: Likeness, thresholds: Thresholds, which: Literal[0, 1]) -> list[Edges]:
    found = []
    for edges, most in (
        (likeness.hash_edges, thresholds.bits[which]),
        (likeness.pixel_edges, 1 - thresholds.correlation[which]),
        (likeness.embedding_edges, 1 - thresholds.cosine[which]),
    ):
        near = edges[2] <= most
        found.append((edges[0][near], edges[1][near], edges[2][near]))
    return found


def _dropped(
    item: Candidate,
    kept: Candidate,
    bits: int,
    likeness: Likeness,
    thresholds: Thresholds,
    fitted: dict[tuple[int, int], float],
) -> Dropped | None:
    """How an item is near one that is kept, `bits` apart; None where it is not."""
    if item.image == kept.image:
        return Dropped(item.id, kept.id, "sha256", 0.0)
    if bits <= thresholds.bits[0]:
        return Dropped(item.id, kept.id, "phash", float(bits))
    left = fitted.get((min(item.image, kept.image), max(item.image, kept.image)), 2.0)
    if left <= 1 - thresholds.correlation[0]:
        return Dropped(item.id, kept.id, "pixels", round(left, 6))
    if likeness.vectors is not None:
        a, b = (likeness.vectors[i].astype(np.float32) for i in (item.image, kept.image))
        if (distance := float(1 - a @ b)) <= 1 - thresholds.cosine[0]:
            return Dropped(item.id, kept.id, "embedding", max(0.0, round(distance, 6)))
    return Dropped(item.id, kept.id, "chain", float(bits)) if bits <= thresholds.chain else None


def between(first: Hashes, second: Hashes) -> int:
    """Bits between two images as wholes, with their borders or without, by their fingerprints; 64 where one shows nothing."""
    if not len(first) or not len(second):
        return 64
    return int(hash_distance(wholes(first)[:, None], wholes(second)[None], MIRROR_BITS).min())


def _near_groups(items: Sequence[Candidate], images: int, edges: list[Edges]) -> tuple[dict[str, str], Counter[int]]:
    """Items that stay together because of near images, of equal ones, or because their source says so."""
    names = sorted({item.group for item in items if item.group is not None})
    number = {name: images + position for position, name in enumerate(names)}
    in_group = [(item.image, number[item.group]) for item in items if item.group is not None]
    of_source = np.array(in_group, np.int64).reshape(-1, 2)
    together = components(images + len(names), *edges, (of_source[:, 0], of_source[:, 1], np.zeros(len(of_source))))
    members: dict[int, list[Candidate]] = defaultdict(list)
    for item in items:
        members[together[item.image]].append(item)
    groups: dict[str, str] = {}
    sizes: Counter[int] = Counter()
    for row in members.values():
        named = {item.group for item in row if item.group is not None}
        if len(row) < 2 or (len(named) == 1 and all(item.group is not None for item in row)):
            # Alone, or together already by the word of the source.
            continue
        groups |= dict.fromkeys((item.id for item in row), min(named) if named else f"near:{min(item.id for item in row)}")
        if len({item.image for item in row}) > 1:
            sizes[len(row)] += 1
    return groups, sizes
