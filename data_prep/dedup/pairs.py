"""All pairs that are close, exactly, in blocks: no pair is missed whatever the threshold, and memory does not grow with the pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_ROWS, _COLUMNS = 64, 4096
"""A block of 64-bit XORs (2 MiB) and its counts stay in a core's cache."""
_MOST_EDGES = 4_000_000

Indices = NDArray[np.int64]
DistanceArray = NDArray[np.float64]
Hashes = NDArray[np.uint64]
PixelMask = NDArray[np.bool_]
Bits = NDArray[np.uint8]
Vectors = NDArray[np.float16] | NDArray[np.float32]

Edges = tuple[Indices, Indices, DistanceArray]
"""First node, second node (int64), distance (float64): (n,) each."""


class Forest:
    """Edges between nodes, thinned out to a minimum spanning forest whenever there are many.

    Whether two nodes hang together at some threshold is decided by the longest edge on the path between them, and a minimum spanning
    forest keeps that path: groups at any threshold come out as if every edge had been kept.
    """

    def __init__(self, nodes: int) -> None:
        self.nodes = nodes
        self._parts: list[Edges] = []
        self._count = 0

    def add(self, first: Indices, second: Indices, distance: DistanceArray | Bits) -> None:
        """Add edges; distances are not negative."""
        self._parts.append((first.astype(np.int64), second.astype(np.int64), distance.astype(np.float64)))
        self._count += len(first)
        if self._count > _MOST_EDGES:
            self._parts = [self._thinned()]
            self._count = len(self._parts[0][0])

    def edges(self, most: float) -> Edges:
        """The forest's edges up to a distance."""
        first, second, distance = self._thinned()
        near = distance <= most
        return first[near], second[near], distance[near]

    def _thinned(self) -> Edges:
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import minimum_spanning_tree

        if not self._parts:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        low, high, distance = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        low, high = np.minimum(low, high), np.maximum(low, high)
        # Several edges between two nodes would be added up by scipy: the shortest stays.
        order = np.lexsort((distance, high, low))
        low, high, distance = low[order], high[order], distance[order]
        keep = np.ones(len(low), bool)
        keep[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
        keep &= low != high
        # Scipy takes a zero for "no edge".
        graph = coo_matrix((distance[keep] + 1, (low[keep], high[keep])), shape=(self.nodes, self.nodes))
        tree = minimum_spanning_tree(graph.tocsr()).tocoo()
        return tree.row.astype(np.int64), tree.col.astype(np.int64), tree.data - 1


def components(nodes: int, *edges: Edges) -> NDArray[np.int32]:
    """(nodes,) number of the group that each node belongs to."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first = np.concatenate([e[0] for e in edges]) if edges else np.empty(0, np.int64)
    second = np.concatenate([e[1] for e in edges]) if edges else np.empty(0, np.int64)
    graph = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(nodes, nodes))
    found: NDArray[np.int32] = connected_components(graph, directed=False)[1]
    return found


def hash_distance(first: Hashes, second: Hashes, mirror: int) -> Bits:
    """Differing bits of 64-bit hashes (uint64, broadcast against each other), of the image or of its mirror image."""
    differing = first ^ second
    bits: Bits = np.minimum(np.bitwise_count(differing), np.bitwise_count(differing ^ np.uint64(mirror)))
    return bits


PairFilter = Callable[[Indices, Indices, Bits], PixelMask]
"""Of pairs (first, second, bits): which of them are wanted, (n,) bool. Called in the threads."""


def close_hashes(
    hashes: Hashes,
    most: int,
    mirror: int,
    on_rows: Callable[[int], None] = lambda _: None,
    workers: int | None = None,
    keep: PairFilter | None = None,
) -> Iterator[Edges]:
    """Every pair of hashes at most `most` bits apart, once.

    Args:
        hashes: (n,) uint64, best without repetition.
        most: bits.
        mirror: bits that change in the hash of a mirrored image.
        on_rows: told how many rows are done, for progress.
        workers: threads (numpy computes outside the interpreter's lock); default: one per core.
        keep: leaves pairs out before they are gathered.
    """
    return _in_threads(hashes, hashes, most, np.uint64(mirror), on_rows, workers, keep)


def close_between(
    rows: Hashes,
    columns: Hashes,
    most: int,
    on_rows: Callable[[int], None] = lambda _: None,
    workers: int | None = None,
    keep: PairFilter | None = None,
) -> Iterator[Edges]:
    """Every pair of one of `rows` and one of `columns` at most `most` bits apart, not mirrored; otherwise as `close_hashes`."""
    return _in_threads(rows, columns, most, None, on_rows, workers, keep)


def _in_threads(
    hashes: Hashes,
    others: Hashes,
    most: int,
    mirror: np.uint64 | None,
    on_rows: Callable[[int], None],
    workers: int | None,
    keep: PairFilter | None,
) -> Iterator[Edges]:
    tasks = range(0, len(hashes), 16 * _ROWS)
    # As many at once as there are threads, so that what was found is taken before more is looked for.
    workers = workers or os.cpu_count() or 1

    def job(row: int) -> Edges:
        first, second, bits = _close(hashes, others, row, most, mirror)
        if keep is not None and len(first):
            wanted = keep(first, second, bits)
            first, second, bits = first[wanted], second[wanted], bits[wanted]
        return first, second, bits.astype(np.float64)

    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(tasks), workers):
            jobs = [pool.submit(job, row) for row in tasks[start : start + workers]]
            for done in jobs:
                yield done.result()
            on_rows(min(len(hashes), tasks[min(start + workers, len(tasks)) - 1] + 16 * _ROWS))


def _close(hashes: Hashes, others: Hashes, start: int, most: int, mirror: np.uint64 | None) -> tuple[Indices, Indices, Bits]:
    """Pairs whose first row is one of 16 blocks from `start` on; among `hashes` themselves only those whose second comes later."""
    same = hashes is others
    differing = np.empty(_ROWS * _COLUMNS, np.uint64)
    bits, mirrored = np.empty(_ROWS * _COLUMNS, np.uint8), np.empty(_ROWS * _COLUMNS, np.uint8)
    close = np.empty(_ROWS * _COLUMNS, bool)
    found: list[tuple[Indices, Indices, Bits]] = []
    for row in range(start, min(start + 16 * _ROWS, len(hashes)), _ROWS):
        rows = hashes[row : row + _ROWS, None]
        for column in range(row if same else 0, len(others), _COLUMNS):
            columns = others[None, column : column + _COLUMNS]
            width, size = columns.shape[1], rows.shape[0] * columns.shape[1]
            x, b, m, c = differing[:size], bits[:size], mirrored[:size], close[:size]
            np.bitwise_xor(rows, columns, out=x.reshape(-1, width))
            np.bitwise_count(x, out=b)
            if mirror is not None:
                np.bitwise_xor(x, mirror, out=x)
                np.bitwise_count(x, out=m)
                np.minimum(b, m, out=b)
            np.less_equal(b, most, out=c)
            # Flat, as numpy looks for what is true in one dimension several times faster than in two.
            at = np.flatnonzero(c)
            if len(at):
                i, j = np.divmod(at, width)
                i, j = i + row, j + column
                later = i < j if same else np.ones(len(at), bool)
                found.append((i[later], j[later], b[at[later]]))
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
    first, second, distance = (np.concatenate(column) for column in zip(*found, strict=True))
    return first, second, distance


def close_vectors(vectors: Vectors, most: float, block: int = 4096) -> Iterator[Edges]:
    """Every pair of unit vectors whose cosine is at least 1 − `most`, once; the distance is 1 − cosine, at least 0.

    Args:
        vectors: (n, dimensions), float16 or float32.
        most: distance.
        block: rows and columns multiplied at once.
    """
    for row in range(0, len(vectors), block):
        rows = vectors[row : row + block].astype(np.float32)
        for column in range(row, len(vectors), block):
            distance = 1 - rows @ vectors[column : column + block].astype(np.float32).T
            i, j = np.nonzero(distance <= most)
            later = i + row < j + column
            i, j = i[later], j[later]
            yield i + row, j + column, distance[i, j].clip(0).astype(np.float64)
