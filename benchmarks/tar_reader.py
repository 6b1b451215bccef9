"""Reading every record and image of a tar: `TarIndex` (validated, random access) against `webdataset.WebDataset` (streaming).

.venv/bin/python benchmarks/tar_reader.py [images]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import webdataset

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.data.tar_index import TarIndex


def ours(tar: str) -> int:
    """Records parsed and checked, images decoded and checked against their sha256."""
    index = TarIndex.open(tar)
    return sum(index.image(i).size[0] + len(index.record(i).id) for i in range(len(index)))


def theirs(tar: str) -> int:
    """JSON parsed, images decoded."""
    samples = webdataset.WebDataset(tar, shardshuffle=False).decode("pil")
    return sum(next(s[e] for e in ("jpg", "png", "webp") if e in s).size[0] + len(s["json"]["id"]) for s in samples)


def timed(read: Callable[[str], int], tar: str) -> tuple[float, int]:
    """Seconds and a checksum."""
    start = time.perf_counter()
    total = read(tar)
    return time.perf_counter() - start, total


def main() -> None:
    """Five rounds in turn; the ratio of the medians."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with tempfile.TemporaryDirectory() as folder:
        samples = World(seed=0).samples("train", count)
        write_shards(((s.truth, s.image, s.extension) for s in samples), folder, "world", count)
        tar = str(next(Path(folder).glob("*.tar")))
        rounds = [(timed(ours, tar), timed(theirs, tar)) for _ in range(5)]
    assert len({total for pair in rounds for _, total in pair}) == 1
    mine, peer = (statistics.median(pair[i][0] for pair in rounds) for i in (0, 1))
    print(f"{count} images: TarIndex {count / mine:.0f}/s, webdataset {count / peer:.0f}/s, ratio of times {mine / peer:.2f}")


if __name__ == "__main__":
    main()
