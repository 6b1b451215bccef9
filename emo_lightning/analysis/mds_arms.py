"""The maps of several arms: the same images in each, and each turned towards the one before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.mds import MdsMap, MdsSummary, mds_map, turned_towards
from emo_lightning.core.errors import MissingFileError
from emo_lightning.core.records import SchemaError


class ArmSummary(MdsSummary):
    """An arm in `mds.json`."""

    splits: dict[str, int]
    """Split -> embeddings with an emotion."""
    without_emotion: int
    """Rows that were left out."""
    not_in_all_arms: int
    """Images that were left out."""
    seed: int
    dim: int
    """Numbers of an embedding."""


@dataclass(frozen=True)
class ArmMap:
    """The map of one arm, and what is said of it."""

    layout: MdsMap
    summary: ArmSummary


@dataclass(frozen=True)
class _Embeddings:
    """The rows of one `des.parquet` that have an emotion, sorted by id."""

    vectors: NDArray[np.float64]
    """(N, des_dim)."""
    emotions: list[str]
    ids: list[str]
    splits: dict[str, int]
    without_emotion: int


def map_arms(embeddings: Mapping[str, Path], seed: int = 0, max_points: int = 2000) -> dict[str, ArmMap]:
    """Lay the embeddings of every arm out (paper Figure 6).

    Args:
        embeddings: arm -> .parquet with the columns id, emotion, split, des; rows without an emotion, and images that not all arms
            have, are left out and counted.
        seed: of the sample.
        max_points: images, drawn in proportion to the emotions.

    Raises:
        MissingFileError: a file is not there.
        SchemaError: no arm, a file that cannot be used, or arms that share no image or disagree on an emotion.
        MdsError: embeddings that cannot be laid out.
    """
    if not embeddings:
        msg = "embeddings: no arm is named"
        raise SchemaError(msg)
    read = {arm: _read(Path(path)) for arm, path in embeddings.items()}
    kept = _in_all_arms({arm: dict(zip(found.ids, found.emotions, strict=True)) for arm, found in read.items()})
    maps: dict[str, ArmMap] = {}
    before: MdsMap | None = None
    for arm, found in read.items():
        rows = [i for i, name in enumerate(found.ids) if name in kept]
        emotions, ids = [found.emotions[i] for i in rows], [found.ids[i] for i in rows]
        layout = mds_map(found.vectors[rows], emotions, ids, seed=seed, max_points=max_points)
        if before is not None:
            layout = turned_towards(layout, before)
        before = layout
        maps[arm] = ArmMap(
            layout,
            {
                **layout.summary(),
                "splits": found.splits,
                "without_emotion": found.without_emotion,
                "not_in_all_arms": len(found.ids) - len(rows),
                "seed": seed,
                "dim": found.vectors.shape[1],
            },
        )
    return maps


def _in_all_arms(emotions: Mapping[str, Mapping[str, str]]) -> set[str]:
    """Ids that every arm has.

    Args:
        emotions: arm -> id -> emotion.

    Raises:
        SchemaError: arms share no image, or disagree on an emotion.
    """
    first, *others = emotions
    kept = set(emotions[first])
    for arm in others:
        kept &= set(emotions[arm])
        wrong = next((i for i in sorted(kept) if emotions[first][i] != emotions[arm][i]), None)
        if wrong is not None:
            msg = f"image {wrong!r} is {emotions[first][wrong]!r} in arm {first!r} and {emotions[arm][wrong]!r} in {arm!r}"
            raise SchemaError(msg)
        if not kept:
            msg = f"arms {first!r} and {arm!r} share no image: their embeddings are of different data"
            raise SchemaError(msg)
    return kept


def _read(path: Path) -> _Embeddings:
    """Sorted by id, so that files in another order give the same picture."""
    import pyarrow.compute as pc

    from emo_lightning.data.embeddings import embedding_columns

    if not path.is_file():
        msg = f"{path}: no such file; expected .parquet with the columns id, emotion, split, des"
        raise MissingFileError(msg)
    table = embedding_columns(path, SchemaError)
    ids, emotions = map(str, table["id"].to_pylist()), table["emotion"].to_pylist()
    order = [row for _, row in sorted(zip(ids, range(table.num_rows), strict=True)) if emotions[row]]
    if not order:
        msg = f"{path}: none of its {table.num_rows} rows has an emotion"
        raise SchemaError(msg)
    kept = table.take(order)
    lengths = {length or 0 for length in pc.unique(pc.list_value_length(kept["des"])).to_pylist()}
    if len(lengths) > 1:
        msg = f"{path}: the embeddings differ in length: {sorted(lengths)}"
        raise SchemaError(msg)
    if lengths == {0}:
        msg = f"{path}: column 'des': the embeddings are empty"
        raise SchemaError(msg)
    splits = Counter(map(str, kept["split"].to_pylist()))
    vectors = np.concatenate([chunk.flatten().to_numpy(zero_copy_only=False) for chunk in kept["des"].chunks])
    return _Embeddings(
        vectors.astype(np.float64).reshape(len(order), -1),
        kept["emotion"].to_pylist(),
        [str(name) for name in kept["id"].to_pylist()],
        dict(splits),
        table.num_rows - len(order),
    )
