"""Which images are close by their hashes, and which may show a part of each other, over all pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dedup.pairs import (
    Bits,
    DistanceArray,
    Edges,
    Forest,
    Hashes,
    Indices,
    PixelMask,
    close_between,
    close_hashes,
    hash_distance,
)
from data_prep.dedup.phash import CENTRE_WINDOW, MIRROR_BITS, WINDOWS, wholes

_WIDE = 17
"""Bits up to which the hash of one whole image, and that of another or of its centre, are worth a look at the windows. Of unrelated
pairs two in ten thousand are this close."""
_WINDOW = 10
"""Bits up to which a window has to be like the other image as a whole: one in a million of the pairs looked at, where unrelated."""
_LOOKED = 4096
"""Pairs whose windows are compared at once."""

NO_EDGES: Edges = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


@dataclass(frozen=True)
class FoundPairs:
    """Of all pairs of images, by their numbers."""

    edges: Edges
    """Bits between wholes, mirrored or not: enough edges for every group up to the threshold asked for."""
    candidates: Indices
    """(pairs, 2) int64, the lesser number first: one may show a part of the other."""


def search(
    prints: Sequence[Hashes],
    most: int,
    sure: int,
    parts: bool,
    on_rows: Callable[[int, int], None] = lambda *_: None,
) -> FoundPairs:
    """Compare all images.

    Args:
        prints: the fingerprint of each (uint64; none for a plain one).
        most: bits up to which there are edges.
        sure: bits up to which a pair needs no closer look.
        parts: look for parts too.
        on_rows: told how many rows of how many are compared.
    """
    forest = Forest(len(prints))
    shown = np.array([i for i, hashes in enumerate(prints) if len(hashes)], np.int64)
    if not len(shown):
        return FoundPairs(NO_EDGES, np.empty((0, 2), np.int64))
    views = [wholes(prints[i]) for i in shown]
    hashes, leaders, first, owners = _first_owners(np.concatenate(views), np.repeat(shown, [len(v) for v in views]))
    # Images of one hash are tied to the first of them, which then stands for all.
    forest.add(first, owners, np.zeros(len(owners)))
    windows = _Windows(prints, shown)
    candidates: list[Indices] = []
    total = len(hashes) * (2 if parts else 1)

    def wanted(i: Indices, j: Indices, bits: Bits) -> PixelMask:
        found = bits <= most
        rest = np.flatnonzero(~found)
        found[rest] = windows.alike(leaders[i[rest]], leaders[j[rest]])
        return found

    # A hash and its own mirror image: found here, as all pairs are.
    for i, j, distance in close_hashes(
        hashes,
        max(most, _WIDE) if parts else most,
        MIRROR_BITS,
        lambda rows: on_rows(rows, total),
        keep=wanted if parts else None,
    ):
        near = distance <= most
        forest.add(leaders[i[near]], leaders[j[near]], distance[near])
        if parts:
            candidates.append(_pairs(leaders[i], leaders[j])[distance > sure])
    if parts:
        candidates += _by_centre(windows, shown, hashes, leaders, lambda rows: on_rows(len(hashes) + rows, total))
    together = np.concatenate(candidates) if candidates else np.empty((0, 2), np.int64)
    together = together[together[:, 0] != together[:, 1]]
    return FoundPairs(forest.edges(most), np.unique(together, axis=0))


def _first_owners(hashes: Hashes, owners: Indices) -> tuple[Hashes, Indices, Indices, Indices]:
    """Different hashes, sorted, and the first owner of each; then, for every owner, the first owner of its hash."""
    order = np.argsort(hashes, kind="stable")
    unique, first, counts = np.unique(hashes[order], return_index=True, return_counts=True)
    leaders = owners[order][first]
    return unique, leaders, np.repeat(leaders, counts), owners[order]


def _by_centre(
    windows: _Windows, shown: Indices, hashes: Hashes, leaders: Indices, on_rows: Callable[[int], None]
) -> Iterator[Indices]:
    """Pairs of which one is like the centre of the other, which is what a crop is most like."""
    centres, of_centre, _, _ = _first_owners(windows.of[shown, CENTRE_WINDOW], shown)

    def wanted(i: Indices, j: Indices, _: Bits) -> PixelMask:
        return windows.alike(leaders[i], of_centre[j])

    for i, j, _ in close_between(hashes, centres, _WIDE, on_rows, keep=wanted):
        yield _pairs(leaders[i], of_centre[j])


def _pairs(first: Indices, second: Indices) -> Indices:
    return np.stack([np.minimum(first, second), np.maximum(first, second)], axis=1)


class _Windows:
    """Hashes of the windows by image."""

    def __init__(self, prints: Sequence[Hashes], shown: Indices) -> None:
        self.of = np.zeros((len(prints), len(WINDOWS)), np.uint64)
        for i in shown:
            self.of[i] = prints[i][: len(WINDOWS)]

    def alike(self, first: Indices, second: Indices) -> PixelMask:
        """(pairs,) whether a window of one image is like the other as a whole, mirrored or not."""
        found = np.empty(len(first), bool)
        for start in range(0, len(first), _LOOKED):
            a, b = self.of[first[start : start + _LOOKED]], self.of[second[start : start + _LOOKED]]
            bits = np.minimum(hash_distance(a, b[:, :1], MIRROR_BITS).min(1), hash_distance(b, a[:, :1], MIRROR_BITS).min(1))
            found[start : start + _LOOKED] = bits <= _WINDOW
        return found


@dataclass(frozen=True)
class PairParts:
    """For each pair, which image is the whole, about where the other lies in it, and whether mirrored: what a registration starts from."""

    whole: Indices
    part: Indices
    start: DistanceArray
    """(pairs, 4), see `phash.WINDOWS`."""
    mirrored: PixelMask


def parts(prints: Sequence[Hashes], pairs: Indices) -> PairParts:
    """By the closest window of either image.

    Args:
        prints: as for `search`.
        pairs: (pairs, 2).
    """
    either = []
    for whole, part in (pairs.T, pairs.T[::-1]):
        of_whole = np.array([prints[i][: len(WINDOWS)] for i in whole], np.uint64).reshape(-1, len(WINDOWS))
        of_part = np.array([prints[i][0] for i in part], np.uint64)[:, None]
        straight, mirrored = (np.bitwise_count(of_whole ^ of_part ^ np.uint64(turned)) for turned in (0, MIRROR_BITS))
        either.append(np.concatenate([straight, mirrored], axis=1))
    bits = np.concatenate(either, axis=1)
    best = bits.argmin(1) if len(bits) else np.empty(0, np.int64)
    swapped, rest = best >= 2 * len(WINDOWS), best % (2 * len(WINDOWS))
    first, second = pairs.T
    return PairParts(
        whole=np.where(swapped, second, first),
        part=np.where(swapped, first, second),
        start=np.array(WINDOWS)[rest % len(WINDOWS)],
        mirrored=rest >= len(WINDOWS),
    )
