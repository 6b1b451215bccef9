"""The approximate index, and how it is asked: measured on the images themselves, so that it finds what an exact search finds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emo_lightning.search.table import Images, asking, vectors_of

if TYPE_CHECKING:
    from lancedb.table import Table

EXACT_UP_TO = 10_000
"""Images that are all compared: in no more time than an approximate index takes."""
WANTED = 0.98
"""recall@10 of the images themselves; other questions are a little harder."""
K = 10
_QUERIES = 100
_PROBES = (4, 8, 16, 32, 64, 128, 256)
_REFINE = 4
"""Times k, how many candidates are compared by their stored embeddings."""


def make_approximate(images: Images, table: Table, count: int) -> dict[str, object]:
    """Index the embeddings, where there are more than `EXACT_UP_TO`, and find the fewest partitions that are enough.

    Args:
        images: the same table, to be asked.
        table: of all images.
        count: how many they are.

    Returns:
        The row of `TUNING`: images, probes, refine, recall; the last three None where all are compared.
    """
    if count <= EXACT_UP_TO:
        return {"images": count, "probes": None, "refine": None, "recall": None}
    from lancedb.index import IvfPq

    partitions = max(1, round(math.sqrt(count)))
    with asking(images.place, "written"):
        table.create_index("des", config=IvfPq(distance_type="cosine", num_partitions=partitions), replace=True)
    queries = _sample(images, count)
    exact = [_ids(images, one) for one in queries]
    recall, probes = 0.0, _PROBES[0]
    for probes in (*(number for number in _PROBES if number < partitions), partitions):
        found = [_ids(images, one, probes) for one in queries]
        recall = float(np.mean([len(a & b) / len(a) for a, b in zip(exact, found, strict=True)]))
        if recall >= WANTED:
            break
    return {"images": count, "probes": probes, "refine": _REFINE, "recall": recall}


def _sample(images: Images, count: int) -> list[NDArray[np.float32]]:
    """Embeddings of images at equal distances through the table."""
    step = max(1, count // _QUERIES)
    found: list[NDArray[np.float32]] = []
    seen = 0
    for batch in images.batches(("des",)):
        rows = np.arange(len(batch))[(seen + np.arange(len(batch))) % step == 0]
        found += list(vectors_of(batch["des"])[rows])
        seen += len(batch)
    return found[:_QUERIES]


def _ids(images: Images, vector: NDArray[np.float32], probes: int | None = None) -> set[object]:
    """Of the nearest `K` beside the image itself."""
    rows = images.nearest(vector, K + 1, columns=("id",), probes=probes, refine=_REFINE)
    return {row["id"] for row in rows[1:]}
