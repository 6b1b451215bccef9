"""Indices of vectors in which emotion, scene and intensity are planted, so that the right answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emo_lightning.core.records import EMOTIONS, Reference
from emo_lightning.search.rows import NewRow
from emo_lightning.search.writer import IndexWriter

DIM = 32
SCENES = ("o'reilly street", "dark room", "forest at night", "crowded city street", "beach")
WEIGHTS = "a" * 64


def planted(count: int, *, words: bool = True, seed: int = 0) -> list[NewRow]:
    """Image n has emotion n mod 8, scene n/8 mod 5, and an intensity that its vector follows a little."""
    rng = np.random.default_rng(seed)
    emotions, scenes, strong = (rng.normal(size=(n, DIM)) for n in (8, 5, 1))
    rows = []
    for n in range(count):
        emotion, scene, intensity = n % 8, n // 8 % 5, 1 + n // 40 % 10
        vector = 2 * emotions[emotion] + scenes[scene] + 0.05 * intensity * strong[0] + 0.2 * rng.normal(size=DIM)
        said: dict[str, Any] = (
            {"background": SCENES[scene], "attribute": "running", "subject": "dog" if n % 3 else "old cat"} if words else {}
        )
        record = Reference.model_construct(
            id=f"i{n}",
            emotion=EMOTIONS[emotion],
            intensity=intensity,
            split="train" if n % 4 else "test",
            source="made",
            **said,
        )
        rows.append(
            NewRow(f"i{n}", str(n), "made.tar", f"i{n}", record, vector.astype(np.float32), None, b"jpeg" if n % 2 else None)
        )
    return rows


def write(place: Path | str, rows: list[NewRow], weights: str | None = WEIGHTS) -> IndexWriter:
    """All rows in one index, which is finished."""
    writer = IndexWriter(place, weights, "model-a")
    writer.add(rows)
    writer.finish()
    return writer
