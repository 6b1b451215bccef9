"""An index against comparing all vectors with NumPy: what it finds of the ten nearest (recall@10), and how long an answer takes.

The vectors are made as emotion embeddings lie: eight emotions, in each the scenes that occur in all of them, and within a scene what
tells its images apart, in 96 directions of the space and a little in all; no two of one length. Three kinds of questions: images of the
index, new images of the same kind, and points halfway between two. The two ways are asked in turn, and medians are compared; the ratio
is NumPy's time over the index's.

    python benchmarks/index.py [--quick] [--vectors 100000] [--dim 1024] [--queries 200] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import command_line, write_json
from emo_lightning.core.records import EMOTIONS, Reference
from emo_lightning.metrics.neighbours import recall
from emo_lightning.search import Filters, SearchIndex
from emo_lightning.search.rows import NewRow
from emo_lightning.search.writer import IndexWriter

Array = NDArray[np.float32]

SCENES = 60
LATENT = 96
STRETCH = 10_000
K = 10


class Planted:
    """Vectors that lie as emotion embeddings do, drawn a stretch at a time."""

    def __init__(self, dim: int, seed: int = 0) -> None:
        self.dim, self.rng = dim, np.random.default_rng(seed)
        self.emotions = self.rng.normal(size=(len(EMOTIONS), dim)) / np.sqrt(dim)
        self.scenes = self.rng.normal(size=(SCENES, dim)) / np.sqrt(dim)
        self.within = self.rng.normal(size=(LATENT, dim)) / np.sqrt(dim * LATENT)

    def draw(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Emotions (N,), scenes (N,) and vectors (N, dim)."""
        rng = self.rng
        emotion, scene = rng.integers(len(EMOTIONS), size=count), rng.integers(SCENES, size=count)
        found = self.emotions[emotion] + 0.7 * self.scenes[scene] + rng.normal(size=(count, LATENT)) @ (0.8 * self.within)
        found += 0.2 * rng.normal(size=(count, self.dim)) / np.sqrt(self.dim)
        return emotion, scene, (found * np.exp(0.3 * rng.normal(size=(count, 1)))).astype(np.float32)


def stretches(planted: Planted, count: int) -> Iterator[tuple[list[NewRow], Array]]:
    """Rows and their vectors."""
    for start in range(0, count, STRETCH):
        emotion, scene, vectors = planted.draw(min(STRETCH, count - start))
        yield (
            [
                NewRow(
                    f"image-{start + n:06d}",
                    "",
                    "planted.tar",
                    f"image-{start + n:06d}",
                    Reference.model_construct(
                        id="", emotion=EMOTIONS[emotion[n]], background=f"scene {scene[n]}", intensity=1 + n % 10, split="test"
                    ),
                    vectors[n],
                )
                for n in range(len(vectors))
            ],
            vectors,
        )


def questions(planted: Planted, vectors: Array, count: int) -> dict[str, Array]:
    """By kind, (count, dim) at length 1."""
    rng = np.random.default_rng(1)
    own, other = rng.integers(len(vectors), size=(2, count))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kinds = {"own": units[own], "new": planted.draw(count)[2], "halfway": units[own] + units[other]}
    return {kind: (some / np.linalg.norm(some, axis=1, keepdims=True)).astype(np.float32) for kind, some in kinds.items()}


def by_numpy(units: Array, question: Array) -> NDArray[np.int64]:
    """Rows of the nearest, by one product of the matrix."""
    cosines = units @ question
    best = np.argpartition(-cosines, K)[:K]
    return best[np.argsort(-cosines[best])]


def rows_of(index: SearchIndex, question: Array, where: Filters | None = None) -> NDArray[np.int64]:
    return np.array([int(hit.id[6:]) for hit in index.search(question, K, where)])


def main() -> None:
    parser = command_line(__doc__, "few and short vectors: does it run?")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=200, help="of each kind")
    args = parser.parse_args()
    if args.quick:
        args.vectors, args.dim, args.queries = 600, 32, 5
    planted = Planted(args.dim)
    with tempfile.TemporaryDirectory() as temporary:
        place, began, held = Path(temporary) / "index", time.perf_counter(), []
        writer = IndexWriter(place, None, "planted", rows=STRETCH)
        for rows, vectors in stretches(planted, args.vectors):
            writer.add(rows)
            held.append(vectors)
        written = writer.finish()
        built = time.perf_counter() - began
        index = SearchIndex.open(place)
        result = compared(index, planted, np.concatenate(held), args.queries)
        size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
    result |= {
        "vectors": args.vectors,
        "dim": args.dim,
        "build_seconds": built,
        "megabytes": size / 1e6,
        "own_recall": written.recall,
    }
    for name, value in result.items():
        print(f"{name:<22} {value if value is None else round(value, 3)}")
    ratio = result["ratio"]
    assert ratio is not None
    write_json(args.json, "NumPy comparing all of them", ratio, result)


def compared(index: SearchIndex, planted: Planted, vectors: Array, count: int) -> dict[str, float | None]:
    """Recall by kind, and milliseconds of both ways, asked in turn."""
    kinds = questions(planted, vectors, count)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    filters = Filters(emotion="awe", intensity="high")
    for question in kinds["own"][:5]:
        rows_of(index, question)
    result: dict[str, float | None] = {}
    took: dict[str, list[float]] = {"numpy": [], "index": [], "filtered": []}

    def timed(name: str, way: object) -> NDArray[np.int64]:
        start = time.perf_counter()
        found: NDArray[np.int64] = way()  # type: ignore[operator]
        took[name].append(1e3 * (time.perf_counter() - start))
        return found

    for kind, some in kinds.items():
        true, found = [], []
        for question in some:
            true.append(timed("numpy", lambda q=question: by_numpy(vectors, q)))
            found.append(timed("index", lambda q=question: rows_of(index, q)))
        result[f"recall_{kind}"] = recall(np.array(found), np.array(true))
    for question in kinds["new"]:
        timed("filtered", lambda q=question: rows_of(index, q, filters))
    result |= {f"{name}_ms": statistics.median(some) for name, some in took.items()}
    result["index_p95_ms"] = float(np.percentile(took["index"], 95))
    result["ratio"] = statistics.median(took["numpy"]) / statistics.median(took["index"])
    return result


if __name__ == "__main__":
    main()
