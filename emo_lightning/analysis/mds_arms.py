"""The maps of several arms: the same images in each, and each turned towards the one before it."""

from __future__ import annotations

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
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not path.is_file():
        msg = f"{path}: no such file; expected .parquet with the columns id, emotion, split, des"
        raise MissingFileError(msg)
    try:
        table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        msg = f"{path}: not a parquet file: {error}"
        raise SchemaError(msg) from None
    if missing := {"id", "emotion", "split", "des"} - set(table.column_names):
        msg = f"{path}: no column {', '.join(sorted(missing))}; found {', '.join(table.column_names)}"
        raise SchemaError(msg)
    rows = sorted(table.to_pylist(), key=lambda row: str(row["id"]))
    kept = [row for row in rows if row["emotion"]]
    if not kept:
        msg = f"{path}: none of its {len(rows)} rows has an emotion"
        raise SchemaError(msg)
    if len(lengths := {len(row["des"] or ()) for row in kept}) > 1:
        msg = f"{path}: the embeddings differ in length: {sorted(lengths)}"
        raise SchemaError(msg)
    splits: dict[str, int] = {}
    for row in kept:
        splits[str(row["split"])] = splits.get(str(row["split"]), 0) + 1
    if lengths == {0}:
        msg = f"{path}: column 'des': the embeddings are empty"
        raise SchemaError(msg)
    try:
        vectors = np.array([row["des"] for row in kept], dtype=np.float64).reshape(len(kept), -1)
    except (TypeError, ValueError) as error:
        msg = f"{path}: column 'des' is of type {table.schema.field('des').type}; expected lists of floats: {error}"
        raise SchemaError(msg) from None
    return _Embeddings(
        vectors, [row["emotion"] for row in kept], [str(row["id"]) for row in kept], splits, len(rows) - len(kept)
    )
