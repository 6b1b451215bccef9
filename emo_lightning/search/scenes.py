"""Which images show the same scene as another one: by its words, else by what its embedding holds beside the emotion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.emotions import named_emotion
from emo_lightning.search.table import ImageTable, IndexRow
from emo_lightning.search.wishes import Centroids

MAX_MATCHES = 4096
"""Images that are held against the words of a scene."""
MIN_RELATIVE_SCORE = 0.5
"""Of the best match's score (BM25): what a background must have to be the same scene."""
MAX_BACKGROUNDS = 256
"""Backgrounds at most that count as one scene."""


def same_backgrounds(images: ImageTable, background: str) -> list[str]:
    """Backgrounds of the index that say the same scene, best first; none where none shares a word.

    A background counts where its words match with at least `MIN_RELATIVE_SCORE` of the best score.

    Args:
        images: of the index.
        background: words of a scene.
    """
    rows = images.matching(background, "background", MAX_MATCHES, columns=("background",))
    if not rows:
        return []
    best = float(str(rows[0]["_score"]))
    found = [str(row["background"]) for row in rows if float(str(row["_score"])) >= MIN_RELATIVE_SCORE * best]
    return list(dict.fromkeys(found))[:MAX_BACKGROUNDS]


def alike_beside_emotion(
    rows: Sequence[IndexRow], emotions: Sequence[str | None], start: NDArray[np.float32], own: str | None, centroids: Centroids
) -> NDArray[np.float64]:
    """How alike images are to another one in what tells images of one emotion apart, (N,), −1 to 1.

    It is the cosine of what is left of each embedding once the mean of its own emotion is taken away.

    Args:
        rows: with `des`.
        emotions: of each.
        start: (des_dim,) at length 1.
        own: its emotion.
        centroids: of the index.
    """
    left = _residual(np.asarray(start, np.float64), own, centroids)
    others = np.stack([_residual(_unit(row["des"]), emotion, centroids) for row, emotion in zip(rows, emotions, strict=True)])
    lengths = np.linalg.norm(others, axis=1) * np.linalg.norm(left)
    return np.asarray(np.divide(others @ left, lengths, out=np.zeros(len(rows)), where=lengths > 0))


def _unit(des: object) -> NDArray[np.float64]:
    vector = np.asarray(des, np.float64)
    return np.asarray(vector / np.linalg.norm(vector))


def _residual(unit: NDArray[np.float64], emotion: str | None, centroids: Centroids) -> NDArray[np.float64]:
    named = named_emotion(emotion)
    mean = None if named is None else centroids.of(named)
    return unit if mean is None else np.asarray(unit - mean)
