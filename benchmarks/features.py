"""Shuffled reads of a feature cache, batch by batch: the loader of `FeatureDataModule` against numpy on one plain memory map.

Both read the same vectors of 1024 float32 in the same order, on one thread, from pages that are in memory. The peer copies them into one
array, which it uses again for each batch, and gives nothing else; ours gives batches with masks, labels and keys, out of a cache of
several parts. `ratio` is ours over the peer's for samples of 64 tokens in four layers; samples of a single vector are shown beside it.
Rounds alternate; vectors per second of processor time, medians. Beside them, what a training sees: ours by the clock, with as many threads
as there are cores.

    python benchmarks/features.py [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmarks.command import command_line, write_json
from emo_lightning.core.cores import usable_cores
from emo_lightning.data.feature_rows import FeatureRows
from emo_lightning.data.features import FeatureCache, FeatureWriter
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.mapped_parts import PART_BYTES
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.supervision import Supervision

WIDTH = 1024


class Shape(NamedTuple):
    """Of the samples of one cache."""

    tokens: int
    layers: int
    batch: int
    samples: int

    @property
    def vectors(self) -> int:
        """Of one sample."""
        return self.tokens * self.layers


SHAPES = (Shape(64, 4, 64, 1024), Shape(1, 1, 1024, 131_072))
QUICK = (Shape(64, 4, 8, 32), Shape(1, 1, 64, 2048))


def write(folder: Path, shape: Shape) -> None:
    """The cache, in parts as small as they are by default, and the same vectors as one plain file."""
    folder.mkdir(parents=True)
    size = 4 * WIDTH * shape.vectors * shape.samples
    draw = torch.Generator().manual_seed(0)
    with (
        FeatureWriter(folder, shape.layers, WIDTH, torch.float32, "benchmark", part_bytes=min(size // 8, PART_BYTES)) as writer,
        (folder / "plain").open("wb") as plain,
    ):
        for number in range(shape.samples):
            hidden = torch.randn(shape.layers, shape.tokens, WIDTH, generator=draw)
            writer.append(f"{number:07}", hidden, Supervision())
            plain.write(hidden.numpy().tobytes())


def ours(folder: Path, shape: Shape) -> Callable[[int], float]:
    """Reads one epoch; gives a checksum."""
    rows = FeatureRows(FeatureCache(folder))
    loader = ResumableLoader(rows, EpochBatches(len(rows), shape.batch, seed=0), collate_fn=rows.collate)

    def epoch(number: int) -> float:
        loader.set_epoch(number)
        return sum(float(batch["hidden_states"][0, -1, 0, 0]) for batch in loader)

    return epoch


def plain(folder: Path, shape: Shape) -> Callable[[int], float]:
    """As `ours`, from the plain file: (layers, tokens) of each sample together."""
    table = np.memmap(folder / "plain", dtype=np.float32, mode="r", shape=(shape.samples, shape.vectors * WIDTH))
    batches = EpochBatches(shape.samples, shape.batch, seed=0)
    whole = np.empty((shape.batch, shape.vectors * WIDTH), dtype=np.float32)

    def epoch(number: int) -> float:
        batches.set_epoch(number)
        total = 0.0
        for slots in batches:
            out = whole[: len(slots)]
            np.take(table, slots.rows, axis=0, out=out, mode="clip")
            total += float(out[-1, 0])
        return total

    return epoch


class Found(NamedTuple):
    """Of one shape."""

    vectors_per_s: dict[str, float]
    """Of each side, in processor time of one thread."""
    by_clock: float
    """Vectors a second of ours, with all threads."""
    ratio: float
    """Ours over the plain map's."""


def measure(quick: bool, rounds: int) -> Iterator[tuple[str, Found]]:
    """What each shape is, and what was found; rounds in turn, the ratio of the medians."""
    # Whoever has measured before may have set another number.
    threads = usable_cores()
    with tempfile.TemporaryDirectory() as name:
        for shape in QUICK if quick else SHAPES:
            folder = Path(name) / f"{shape.vectors}"
            write(folder, shape)
            sides = {"ours": ours(folder, shape), "plain": plain(folder, shape)}
            seconds: dict[str, list[float]] = {side: [] for side in sides}
            elapsed = []
            # The first round brings the pages into memory.
            for number in range(1 + rounds):
                totals = []
                # More threads wait for each other on a busy machine, in processor time.
                torch.set_num_threads(1)
                for side, epoch in sides.items():
                    began = time.process_time()
                    totals.append(epoch(number))
                    if number:
                        seconds[side].append(time.process_time() - began)
                torch.set_num_threads(threads)
                began = time.perf_counter()
                sides["ours"](number)
                if number:
                    elapsed.append(time.perf_counter() - began)
                assert abs(totals[0] - totals[1]) < 1e-3
            count = shape.vectors * shape.samples
            rates = {side: count / statistics.median(times) for side, times in seconds.items()}
            yield (
                f"{shape.tokens} tokens x {shape.layers} layers, batches of {shape.batch}",
                Found(rates, count / statistics.median(elapsed), rates["ours"] / rates["plain"]),
            )


def main() -> None:
    """Measure, and print."""
    parser = command_line(__doc__, "small caches, one round: that it runs, not how fast")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found: dict[str, object] = {}
    first: float | None = None
    for said, (rates, by_clock, ratio) in measure(given.quick, 1 if given.quick else given.rounds):
        print(
            f"{said}: ours {rates['ours']:,.0f} vectors/s, plain map {rates['plain']:,.0f}, ratio {ratio:.2f}; "
            f"ours by the clock {by_clock:,.0f}, {torch.get_num_threads()} threads",
            flush=True,
        )
        first = ratio if first is None else first
        found[said] = {"vectors_per_s": rates, "by_clock": by_clock, "ratio": ratio}
    assert first is not None
    write_json(given.json, "numpy on one plain memory map", first, found)


if __name__ == "__main__":
    main()
