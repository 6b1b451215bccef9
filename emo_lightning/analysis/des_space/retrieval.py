"""Retrieval by DES (paper section 3.3: the embedding serves "classification, retrieval, and generation").

recall@k: share of the queries with at least one relevant image among their k nearest (the metric-learning recall@k). precision@k:
mean share of relevant images among the k nearest. Relevant: another image with the same emotion, triplet, or element of it. Queries
for which no other image is relevant are left out and counted. Chance is exact: k others drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.des_space.inputs import DesSet, DistanceMetric, mean_interval, nearest
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS


class Share(TypedDict):
    """A mean share over queries, 0–1, with its 95 % interval and what chance would give."""

    value: float
    low: float
    high: float
    chance: float


class Target(TypedDict):
    """Retrieval by one target; without a query there is nothing but the counts."""

    queries: int
    without_relevant: int
    without_label: int
    recall: NotRequired[dict[str, Share]]
    """k -> recall@k."""
    precision: NotRequired[dict[str, Share]]
    by_emotion: NotRequired[dict[str, dict[str, float]]]
    """Emotion -> k -> recall@k; of the target `emotion` alone."""


class Retrieval(TypedDict):
    """One arm."""

    images: int
    metric: DistanceMetric
    ks: list[int]
    targets: dict[str, Target]


TARGETS = ("emotion", "triplet", "background", "attribute", "subject")
"""What makes an image relevant."""


def labels_of(found: DesSet, target: str) -> list[str | None]:
    """N labels of a target, None where the record has none; blanks and case do not matter."""
    match target:
        case "emotion":
            return found.emotions
        case "triplet":
            return [None if r.triplet is None else str(r.triplet).strip().lower() for r in found.records]
        case "background" | "attribute" | "subject":
            return [None if (text := getattr(r, target)) is None else text.strip().lower() for r in found.records]
        case _:
            msg = f"target {target!r}; allowed: {', '.join(TARGETS)}"
            raise InputError(msg)


def retrieval(
    found: DesSet,
    ks: Sequence[int] = (1, 5, 10),
    metric: DistanceMetric = "cosine",
    targets: Sequence[str] = TARGETS,
    seed: int = 0,
) -> Retrieval:
    """Recall and precision at each k, by each target.

    Args:
        found: one arm's embeddings.
        ks: how many neighbours count, each at least 1 and less than the number of images.
        metric: of the embedding.
        targets: of `TARGETS`.
        seed: of the intervals' bootstrap over queries.

    Raises:
        InputError: a k is out of range.
    """
    if min(ks) < 1 or max(ks) >= len(found):
        msg = f"retrieval: k={min(ks) if min(ks) < 1 else max(ks)} with {len(found)} images; expected 1 ≤ k < images"
        raise InputError(msg)
    neighbours = nearest(found.vectors, max(ks), metric)
    result = {target: _one(labels_of(found, target), neighbours, ks, seed, target == "emotion") for target in targets}
    return {"images": len(found), "metric": metric, "ks": list(ks), "targets": result}


def _one(labels: list[str | None], neighbours: NDArray[np.intp], ks: Sequence[int], seed: int, split: bool) -> Target:
    from scipy.stats import hypergeom

    names = np.array([name if name is not None else "" for name in labels])
    known = np.array([name is not None for name in labels])
    _, groups, sizes = np.unique(names, return_inverse=True, return_counts=True)
    relevant = np.where(known, sizes[groups] - 1, 0)
    queries = np.flatnonzero(known & (relevant > 0))
    result: Target = {
        "queries": len(queries),
        "without_relevant": int((known & (relevant == 0)).sum()),
        "without_label": int((~known).sum()),
    }
    if not len(queries):
        return result
    hits = (names[neighbours[queries]] == names[queries, None]) & known[neighbours[queries]]  # (queries, k)
    others, few = len(labels) - 1, relevant[queries]
    recall: dict[str, Share] = {}
    precision: dict[str, Share] = {}
    for k in ks:
        at_least_one = hits[:, :k].any(axis=1).astype(np.float64)
        recall[str(k)] = _share(at_least_one, float(hypergeom.sf(0, others, few, k).mean()), seed)
        precision[str(k)] = _share(hits[:, :k].mean(axis=1), float((few / others).mean()), seed)
    result |= {"recall": recall, "precision": precision}
    by_emotion = {
        str(e): {str(k): float(hits[rows][:, :k].any(axis=1).mean()) for k in ks}
        for e in EMOTIONS
        if split and (rows := names[queries] == str(e)).any()
    }
    if by_emotion:
        result["by_emotion"] = by_emotion
    return result


def _share(values: NDArray[np.float64], chance: float, seed: int) -> Share:
    value, low, high = mean_interval(values, seed)
    return {"value": value, "low": low, "high": high, "chance": chance}
