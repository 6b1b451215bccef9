"""Embeddings joined with what is known of their images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.references import References
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.intervals import CONFIDENCE_LEVEL
from emo_lightning.core.records import EMOTIONS, Reference, SchemaError
from emo_lightning.metrics.neighbours import exact_index
from emo_lightning.search.schema import IMAGES_TABLE

DistanceMetric: TypeAlias = Literal["cosine", "euclidean"]
DISTANCE_METRICS: tuple[DistanceMetric, ...] = get_args(DistanceMetric)


def as_metric(name: str) -> DistanceMetric:
    """A metric by its name.

    Raises:
        InputError: it is none of `DISTANCE_METRICS`.
    """
    for metric in DISTANCE_METRICS:
        if name == metric:
            return metric
    msg = f"metric {name!r}; allowed: {', '.join(DISTANCE_METRICS)}"
    raise InputError(msg)


class MeanInterval(NamedTuple):
    """A mean with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class DesSet:
    """Embeddings of N images with their records."""

    vectors: NDArray[np.float64]
    """(N, des_dim), finite."""
    records: Sequence[Reference]
    """N, in order of id."""
    left_out: dict[str, int]
    """Reason -> images."""

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> list[str]:
        """N image ids."""
        return [record.id for record in self.records]

    @property
    def emotions(self) -> list[str | None]:
        """N emotions, None where there is none."""
        return [None if record.emotion is None else str(record.emotion) for record in self.records]

    @property
    def distributions(self) -> NDArray[np.float64]:
        """(N, 8) of `emotion_scores`, order of `EMOTIONS`; rows of NaN without."""
        rows = [
            [np.nan] * len(EMOTIONS) if r.emotion_scores is None else [r.emotion_scores.get(e, 0.0) for e in EMOTIONS]
            for r in self.records
        ]
        return np.array(rows, dtype=np.float64).reshape(len(self), len(EMOTIONS))

    @property
    def intensities(self) -> NDArray[np.float64]:
        """(N,), NaN without."""
        return np.array([np.nan if r.intensity is None else r.intensity for r in self.records], dtype=np.float64)

    def take(self, rows: Sequence[int] | NDArray[np.intp], reason: str) -> DesSet:
        """These rows; the others are counted under `reason`."""
        kept = [int(i) for i in rows]
        dropped = {reason: len(self) - len(kept)} if len(kept) < len(self) else {}
        return DesSet(self.vectors[kept], [self.records[i] for i in kept], {**self.left_out, **dropped})


def load_arms(embeddings: Mapping[str, Path], references: References, metric: DistanceMetric = "cosine") -> dict[str, DesSet]:
    """Every arm's embeddings of the images that all arms and the references have, in order of id.

    Args:
        embeddings: arm -> `des.parquet`, tars that hold `{key}.des.npy` (a file, folder or glob), or an index.
        references: the records.
        metric: what the distances will be; an embedding that is all zeros has no cosine.

    Raises:
        SchemaError: a file has no row, or no image of the references; arms share no image; an embedding is not finite or is zero.
        MissingFileError: a file is missing.
    """
    if not embeddings:
        msg = "embeddings: no arm is named"
        raise SchemaError(msg)
    records = {record.id: record for record in references.records}
    found = {arm: read_vectors(Path(path)) for arm, path in embeddings.items()}
    common = set(records)
    for arm, (ids, vectors) in found.items():
        if not set(ids) & set(records):
            msg = f"{embeddings[arm]}: none of its {len(ids)} images is among the {len(records)} references"
            raise SchemaError(msg)
        common &= set(ids)
        _check(Path(embeddings[arm]), ids, vectors, metric)
    if not common:
        msg = f"the arms {', '.join(map(repr, found))} have no image in common"
        raise SchemaError(msg)
    arms = {}
    for arm, (ids, vectors) in found.items():
        rows = sorted((name, i) for i, name in enumerate(ids) if name in common)
        left_out = {"not among the references": sum(name not in records for name in ids)}
        left_out["not in all arms"] = len(ids) - len(rows) - left_out["not among the references"]
        left_out["references without an embedding"] = len(set(records) - set(ids))
        arms[arm] = DesSet(
            vectors[[i for _, i in rows]],
            [records[name] for name, _ in rows],
            {reason: n for reason, n in left_out.items() if n},
        )
    return arms


def read_vectors(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Ids and embeddings, (N,) and (N, des_dim), of a `.parquet` as `emo embed` writes it, of tars with `.des.npy`, or of an index.

    Raises:
        MissingFileError: no such file.
        SchemaError: an image without an embedding, of another length, or twice.
    """
    if path.suffix == ".parquet":
        from emo_lightning.data.embeddings import EmbeddingTable

        if not path.is_file():
            msg = f"{path}: no such file; expected .parquet with the columns id, emotion, split, des"
            raise MissingFileError(msg)
        table = EmbeddingTable.read(path, SchemaError)
        ids, vectors = table.id, table.des.astype(np.float64)
    elif is_index(path):
        from emo_lightning.search.index import SearchIndex

        stretches = list(SearchIndex.open(path).vectors())
        ids = [name for names, _ in stretches for name in names]
        vectors = np.concatenate([des for _, des in stretches]).astype(np.float64)
    else:
        from emo_lightning.data.tar_index import TarIndex

        index = TarIndex.open([str(path)], bad_images=True)
        given = [index.des(row) for row in range(len(index))]
        lengths = sorted({len(v) for v in given if v is not None})
        if len(lengths) != 1 or any(v is None for v in given):
            missing = sum(v is None for v in given)
            msg = f"{path}: {missing} of {len(given)} images have no embedding, the others have {lengths} values"
            raise SchemaError(msg)
        ids, vectors = [index.record(row).id for row in range(len(index))], np.array(given, dtype=np.float64)
    if twice := next((name for name in ids if ids.count(name) > 1), None) if len(set(ids)) < len(ids) else None:
        msg = f"{path}: image {twice!r} occurs twice"
        raise SchemaError(msg)
    return ids, vectors


def is_index(path: Path) -> bool:
    """Whether it is the folder of `emo index build`."""
    return (path / f"{IMAGES_TABLE}.lance").is_dir()


def _check(path: Path, ids: Sequence[str], vectors: NDArray[np.float64], metric: DistanceMetric) -> None:
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        msg = f"{path}: the embedding of {ids[bad[0]]!r} (and of {len(bad) - 1} more) holds a value that is not finite"
        raise SchemaError(msg)
    zero = np.flatnonzero(~vectors.any(axis=1))
    if metric == "cosine" and len(zero):
        msg = (
            f"{path}: the embedding of {ids[zero[0]]!r} (and of {len(zero) - 1} more) is all zeros, which has no cosine; "
            "allowed: metric euclidean"
        )
        raise SchemaError(msg)


def pair_distances(vectors: NDArray[np.float64], metric: DistanceMetric) -> NDArray[np.float64]:
    """(N, des_dim) to (N, N); cosine distance is 1 − cosine."""
    from sklearn.metrics import pairwise_distances

    return np.asarray(pairwise_distances(vectors, metric=metric), dtype=np.float64)


def nearest(vectors: NDArray[np.float64], k: int, metric: DistanceMetric) -> NDArray[np.intp]:
    """(N, k) rows of each image's nearest others, nearest first.

    Raises:
        ValueError: there are not more than k images.
    """
    if not 1 <= k < len(vectors):
        msg = f"k={k} with {len(vectors)} images; expected 1 ≤ k < images"
        raise ValueError(msg)
    # Asked without a query, it leaves each point out of its own neighbours.
    return np.asarray(exact_index(vectors, k, metric).kneighbors(return_distance=False))


def mean_interval(values: NDArray[np.float64], seed: int, resamples: int = 2000) -> MeanInterval:
    """Mean over items with its 95 % percentile interval by bootstrap over them.

    Raises:
        InputError: a negative seed.
        ValueError: there is no value.
    """
    if seed < 0:
        msg = f"seed is {seed}; expected 0 or more"
        raise InputError(msg)
    if not len(values):
        msg = "no value to take a mean of"
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    step = max(1, (1 << 22) // len(values))
    means = [
        values[rng.integers(len(values), size=(min(step, resamples - start), len(values)))].mean(axis=1)
        for start in range(0, resamples, step)
    ]
    tail = (100 - 100 * CONFIDENCE_LEVEL) / 2
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return MeanInterval(float(values.mean()), float(low), float(high))


def notes_of(arms: Mapping[str, DesSet], what: str) -> list[str]:
    """What was left out, for the page."""
    return [f"{what}, {arm}: {n} images {reason}" for arm, found in arms.items() for reason, n in found.left_out.items()]
