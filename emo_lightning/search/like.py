"""The same scene, but calmer: images that lie where a wish goes, and show what the first one shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.emotions import named_emotion
from emo_lightning.search.filters import Filters, both, one_of
from emo_lightning.search.hits import Hit, as_hit
from emo_lightning.search.index import SearchIndex, checked_k
from emo_lightning.search.scenes import alike_beside_emotion, same_backgrounds
from emo_lightning.search.schema import HIT_COLUMNS
from emo_lightning.search.table import IndexRow
from emo_lightning.search.wishes import Wish

_POOL = 20
"""Times k, how many of the nearest are looked at for those that go the right way; at least `_LEAST_POOL`."""
_LEAST_POOL = 200
_AHEAD = 0.25
"""Share of the way (at strength 1) that an image has to have gone; where one begins at the end of it, any step further counts."""
_SAME = 0.25
"""Share of that pool that counts as the same scene where no words say it."""


@dataclass(frozen=True)
class Start:
    """What one begins with."""

    vector: NDArray[np.float32]
    """Its embedding, (des_dim,)."""
    emotion: str | None = None
    """Its own, where it is known."""
    background: str | None = None
    """Words of its scene, where they are known."""
    id: str | None = None
    """Where it is an image of the index: it is not found again."""


@dataclass(frozen=True)
class SearchAnswer:
    """What was found, and how."""

    hits: list[Hit]
    """`distance` and `cosine` are those to the point that the wish goes to."""
    scene: str
    """What kept the scene: a sentence for people."""


def start_of(index: SearchIndex, name: str) -> Start:
    """An image of the index.

    Raises:
        InputError: there is none of that id.
    """
    hit = index.get(name)
    return Start(index.vector(name), hit.emotion, hit.text("background"), name)


def like(
    index: SearchIndex, start: Start, wishes: Sequence[str], k: int = 10, where: Filters | None = None, strength: float = 1.0
) -> SearchAnswer:
    """Images of the same scene that differ as was wished.

    1. The point z = x + strength · (sum of the wishes' directions): see `wishes`.
    2. The scene. Where the start's background is known in words and the index knows backgrounds: only images whose background matches them
       (`scenes.same_backgrounds`). Else the nearest quarter of a pool around z, by what the embeddings hold beside the emotion
       (`scenes.alike_beside_emotion`).
    3. Of these, the nearest to z that lie at least a quarter of the way further in the wished direction than the start; any step further
       where the start is of the wished emotion already. Where the scene is known in words, images of the wished emotions come first.

    Args:
        index: of the same model as the start's embedding.
        start: what one begins with.
        wishes: see `Wish.parse`; several are added.
        k: how many images at most. Fewer are found where the scene has no more that go the right way.
        where: conditions that they fulfil.
        strength: 1 goes from the mean of one emotion to that of the other; more goes beyond.

    Raises:
        InputError: a wish that means nothing, or that this index cannot fulfil.
    """
    checked_k(k)
    own = named_emotion(start.emotion)
    parsed = [Wish.parse(text) for text in wishes]
    x = index.checked(start.vector)
    way = np.sum([index.centroids.direction(wish, own) for wish in parsed], axis=0)
    point = index.checked(x + strength * way)
    only = sorted({str(emotion) for wish in parsed if wish.only for emotion in wish.emotions})
    condition = both(None if where is None else where.sql(), one_of("emotion", only) if only else None)
    pool = max(_POOL * k, _LEAST_POOL)
    columns = (*HIT_COLUMNS, "des")
    texts = same_backgrounds(index.images, start.background) if start.background else []
    if texts:
        rows = index.nearest(point, pool, both(condition, one_of("background", texts)), columns)
        scene = f"same background by its words: {', '.join(texts[:3])}{f' and {len(texts) - 3} more' if len(texts) > 3 else ''}"
    else:
        rows = index.nearest(point, pool, condition, columns)
        scene = "same scene by the embedding alone: no words of the background are known"
    there = any(wish.kind == "towards" and own in wish.emotions for wish in parsed)
    ahead = _ahead(rows, x, way, 0.0 if there else _AHEAD * min(strength, 1.0), start.id)
    wished = sorted({str(emotion) for wish in parsed if wish.kind == "towards" for emotion in wish.emotions})
    if texts and wished:
        # The embedding knows less of an emotion than a record that names it.
        named = both(condition, one_of("background", texts), one_of("emotion", wished))
        first = index.nearest(point, pool, named, columns)
        first = (_ahead(first, x, way, 0.0, start.id) if there else first)[:k]
        known = {row["id"] for row in first}
        ahead = [*first, *(row for row in ahead if row["id"] not in known)]
    if not texts and ahead:
        likeness = alike_beside_emotion(ahead, [as_hit(row).emotion for row in ahead], x, start.emotion, index.centroids)
        kept = set(np.argsort(-likeness, kind="stable")[: max(k, int(_SAME * len(ahead)))].tolist())
        ahead = [row for n, row in enumerate(ahead) if n in kept]
    return SearchAnswer([as_hit(row) for row in ahead[:k]], scene)


def _ahead(
    rows: Sequence[IndexRow], x: NDArray[np.float32], way: NDArray[np.float64], least: float, own: str | None
) -> list[IndexRow]:
    """Those that have gone more than a share of the way from x, without x itself."""
    if not rows:
        return []
    vectors = np.array([row["des"] for row in rows], np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    further = (units - x) @ way > least * float(way @ way)
    return [row for row, ahead in zip(rows, further, strict=True) if ahead and row["id"] != own]
