"""The approximate index, and how it is asked: measured on the images themselves, so that it finds what an exact search finds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emo_lightning.search.table import ImageTable, index_errors, vectors_of

if TYPE_CHECKING:
    from lancedb.table import Table

Float32Array = NDArray[np.float32]

EXACT_UP_TO = 2_000
"""Images that are all compared: in no more time than an approximate index takes."""
TARGET_RECALL = 0.98
"""recall@10 that is looked for."""
TUNED_NEIGHBOURS = 10
_QUERIES = 50
"""Of each kind: images, and points halfway between two, which lie where few images are and are harder."""
_PROBES = (8, 16, 32, 64, 128, 256, 512)
_REFINE = 4
"""Times k, how many candidates are compared by their stored embeddings."""


def make_approximate(images: ImageTable, table: Table, count: int) -> dict[str, object]:
    """Index the embeddings, where there are more than `EXACT_UP_TO`, and find the fewest partitions that are enough.

    √N partitions of the embeddings (IVF), within which each number is one byte (SQ). Partitions are trained on 64 vectors each.

    Args:
        images: the same table, to be asked.
        table: of all images.
        count: how many they are.

    Returns:
        The row of `TUNING_TABLE`: images, probes, refine, and the recall of the harder kind of question; the last three None where all are
        compared.
    """
    if count <= EXACT_UP_TO:
        return {"images": count, "probes": None, "refine": None, "recall": None}
    from lancedb.index import IvfSq

    partitions = max(1, round(math.sqrt(count)))
    config = IvfSq(distance_type="cosine", num_partitions=partitions, sample_rate=64, max_iterations=20)
    with index_errors(images.place, "written"):
        table.create_index("des", config=config, replace=True)
    own = _sample(images, count)
    halfway: list[Float32Array] = [np.asarray((a + b) / 2, np.float32) for a, b in zip(own, [*own[1:], own[0]], strict=True)]
    kinds = [own, halfway]
    exact = [_exact(images, np.stack(some)) for some in kinds]
    recall, probes = 0.0, _PROBES[0]
    for probes in (*(number for number in _PROBES if number < partitions), partitions):
        found = [[_ids(images, one, probes) for one in some] for some in kinds]
        recall = min(_recall(found[0], exact[0], own=1), _recall(found[1], exact[1], own=0))
        if recall >= TARGET_RECALL:
            break
    return {"images": count, "probes": probes, "refine": _REFINE, "recall": recall}


def _recall(found: Sequence[set[object]], exact: Sequence[set[object]], own: int) -> float:
    """Mean share that was found, without the `own` images that a question is, which every search finds."""
    return float(np.mean([(len(a & b) - own) / (len(b) - own) for a, b in zip(found, exact, strict=True)]))


def _sample(images: ImageTable, count: int) -> list[Float32Array]:
    """Embeddings at length 1 of images at equal distances through the table."""
    step = max(1, count // _QUERIES)
    found: list[Float32Array] = []
    seen = 0
    for batch in images.batches(("des",)):
        rows = np.flatnonzero((seen + np.arange(len(batch))) % step == 0)
        found += [one / np.linalg.norm(one) for one in vectors_of(batch["des"])[rows]]
        seen += len(batch)
    return found[:_QUERIES]


def _ids(images: ImageTable, vector: Float32Array, probes: int) -> set[object]:
    """Of the nearest `TUNED_NEIGHBOURS` images, beside one that may be asked with."""
    return {row["id"] for row in images.nearest(vector, TUNED_NEIGHBOURS + 1, columns=("id",), probes=probes, refine=_REFINE)}


def _exact(images: ImageTable, questions: Float32Array) -> list[set[object]]:
    """The same for (Q, des_dim), by comparing all in one pass."""
    best = np.full((len(questions), TUNED_NEIGHBOURS + 1), -2.0)
    names = np.full((len(questions), TUNED_NEIGHBOURS + 1), "", dtype=object)
    for batch in images.batches(("id", "des")):
        vectors = vectors_of(batch["des"])
        cosines = questions @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
        ids = np.broadcast_to(np.array(batch["id"].to_pylist(), dtype=object), cosines.shape)
        both, those = np.hstack([best, cosines]), np.hstack([names, ids])
        kept = np.argpartition(-both, TUNED_NEIGHBOURS, axis=1)[:, : TUNED_NEIGHBOURS + 1]
        best, names = np.take_along_axis(both, kept, 1), np.take_along_axis(those, kept, 1)
    return [set(row) for row in names]
