"""Scoring of predictions without CLIP: Table 5 in both modes with all baselines and 95 % intervals.

Peer: the interval of one figure, emotion accuracy, by `scipy.stats.bootstrap` with as many resamples, from the same files. The ratio
is of processor times per figure that has an interval.

.venv/bin/python benchmarks/table5.py [--records 10000] [--quick] [--json FILE]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from scipy import stats

from benchmarks.command import command_line, write_json
from emo_lightning.analysis.references import References, load_predictions
from emo_lightning.analysis.table5 import table5
from emo_lightning.core.records import EMOTIONS, GroundedObject, PredictedObject, Prediction, Record, write_jsonl
from emo_lightning.metrics.bootstrap import RESAMPLES


def box(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Within 320x320."""
    x, y = map(float, rng.uniform(0, 200, 2))
    return x, y, x + float(rng.uniform(20, 110)), y + float(rng.uniform(20, 110))


def write(folder: Path, count: int) -> None:
    """References, training records and predictions: one to three boxes, some replies missing or unreadable."""
    rng = np.random.default_rng(0)
    for name in ("train", "test"):
        records = [
            Record(
                id=f"{name}{i}",
                source="made",
                width=320,
                height=320,
                sha256="0" * 64,
                split=name,
                emotion=EMOTIONS[int(rng.integers(8))],
                intensity=int(rng.integers(1, 11)),
                description=" ".join(f"word{w}" for w in rng.integers(0, 500, 12)),
                objects=[GroundedObject(phrase="it", bbox=box(rng), score=1, primary=True) for _ in range(rng.integers(1, 4))],
            )
            for i in range(count)
        ]
        write_jsonl(folder / f"{name}.jsonl", records)
    said = [
        Prediction(
            id=record.id,
            emotion=None if rng.random() < 0.02 else EMOTIONS[int(rng.integers(8))],
            intensity=float(rng.integers(1, 11)),
            description="a dog",
            objects=[PredictedObject(bbox=box(rng)) for _ in range(rng.integers(0, 4))],
        )
        for record in records
        if rng.random() > 0.01
    ]
    write_jsonl(folder / "said.jsonl", said)


def ours(folder: Path) -> int:
    """Files to figures; how many of them have an interval."""
    references = References.load(folder / "test.jsonl")
    arms = {"said": load_predictions(folder / "said.jsonl", references)}
    result = table5(arms, references, References.load(folder / "train.jsonl"))
    columns = [*result["arms"].values(), *result["baselines"].values()]
    return sum(bounds is not None for c in columns for rows in c["intervals"].values() for bounds in rows.values())


def peer(folder: Path) -> int:
    """Accuracy alone, of one set of predictions."""
    references = References.load(folder / "test.jsonl")
    said = load_predictions(folder / "said.jsonl", references)
    right = np.array([r.id in said and said[r.id].emotion == r.emotion for r in references.records], dtype=float)
    stats.bootstrap((right,), np.mean, n_resamples=RESAMPLES, method="percentile", batch=50, rng=0)
    return 1


def timed(score: Callable[[Path], int], folder: Path) -> tuple[float, float, int]:
    """Seconds of processor and of clock, figures."""
    cpu, clock = time.process_time(), time.perf_counter()
    figures = score(folder)
    return time.process_time() - cpu, time.perf_counter() - clock, figures


def main() -> None:
    """One round of each after a small one that pays for imports."""
    parser = command_line(__doc__, "few records: that it runs, not how fast")
    parser.add_argument("--records", type=int, default=10_000)
    asked = parser.parse_args()
    count = 200 if asked.quick else asked.records
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, 50)
        ours(folder), peer(folder)
        write(folder, count)
        (mine, clock, figures), (other, _, one) = timed(ours, folder), timed(peer, folder)
    ratio = mine / figures / (other / one)
    print(
        f"{count:,} records: {figures} figures with intervals in {mine:.1f} s of processor ({clock:.1f} s of clock), files included; "
        f"scipy.stats.bootstrap: {one} in {other:.1f} s; ratio per figure {ratio:.3f}"
    )
    found = {"records": count, "figures": figures, "seconds": mine, "peer_seconds": other}
    write_json(asked.json, "scipy.stats.bootstrap", ratio, found)


if __name__ == "__main__":
    main()
