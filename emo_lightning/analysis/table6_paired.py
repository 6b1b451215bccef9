"""Whether two arms of Table 6 differ by more than the choice of test images: paired on the same images, seeds kept apart.

Difference: mean over an arm's seeds of its accuracy (or macro-F1), second arm minus first, in points. Two percentile intervals by
bootstrap: over images alone (these trained networks, other images) and over seeds and images (another training too; each arm's
seeds are drawn with replacement on their own). p: per image, the seeds' mean correctness of the two arms is exchanged at random
(sign-flip permutation, two-sided); with one seed on both sides that is McNemar's test, computed exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.table6 import SETS
from emo_lightning.core.files import read_object
from emo_lightning.core.records import EMOTIONS, SchemaError

CLASSES = len(EMOTIONS)
LEVEL = 95
"""Percent of the intervals."""

FLIPS = 9999
"""Random exchanges behind a p-value that is not exact; the smallest p is 1e-4."""

_CHUNK = 1 << 22
"""Resampled images held at a time."""


@dataclass(frozen=True)
class Answers:
    """What the probes of one arm say of one evaluation set; images without an emotion are left out.

    Args:
        ids: N image ids, sorted.
        truth: (N,) class indices, order of `EMOTIONS`.
        said: (seeds, N) class indices.
    """

    ids: list[str]
    truth: NDArray[np.int64]
    said: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(seeds, N)."""
        return self.said == self.truth


def read_answers(folders: Sequence[Path]) -> dict[str, Answers]:
    """Predictions of an arm's probes, computed again from their weights and the embeddings beside them.

    Args:
        folders: one probe stage per seed, with `des.parquet`, `probe/` and `metrics.json`.

    Raises:
        FileNotFoundError: one of the three is missing.
        SchemaError: seeds were evaluated on different images, or the files of a folder do not belong together.
    """
    sets: dict[str, list[tuple[list[str], NDArray[np.int64], NDArray[np.int64]]]] = {}
    for folder in folders:
        for name, found in _read_folder(Path(folder)).items():
            sets.setdefault(name, []).append(found)
    answers = {}
    for name, seeds in sets.items():
        ids, truth, _ = seeds[0]
        if len(seeds) < len(folders) or any(i != ids or (t != truth).any() for i, t, _ in seeds):
            msg = f"{folders[0]}: set {name!r} is not the same images with the same emotions in all of the arm's seeds"
            raise SchemaError(msg)
        answers[name] = Answers(ids, truth, np.stack([said for _, _, said in seeds]))
    return answers


def _read_folder(folder: Path) -> dict[str, tuple[list[str], NDArray[np.int64], NDArray[np.int64]]]:
    import torch

    from emo_lightning.data.embeddings import EmbeddingTable
    from emo_lightning.models.probe import LinearProbes

    for name in ("des.parquet", "probe/config.json", "metrics.json"):
        if not (folder / name).is_file():
            msg = f"{folder / name}: no such file; the paired test needs what a probe stage writes"
            raise FileNotFoundError(msg)
    table = EmbeddingTable.read(folder / "des.parquet")
    if not np.isfinite(table.des).all():
        name = table.id[int(np.flatnonzero(~np.isfinite(table.des).all(axis=1))[0])]
        msg = f"{folder / 'des.parquet'}: the embedding of {name!r} holds a value that is not finite"
        raise SchemaError(msg)
    probe = LinearProbes.from_pretrained(folder / "probe")
    with torch.no_grad():
        said = probe(torch.tensor(table.des))[0].argmax(-1).numpy()
    metrics = read_object(folder / "metrics.json")
    found = {}
    for name in dict.fromkeys(table.split):
        rows = [i for i, (s, e) in enumerate(zip(table.split, table.emotion, strict=True)) if s == name and e is not None]
        rows.sort(key=lambda i: table.id[i])
        truth = np.array([EMOTIONS.index(table.emotion[i]) for i in rows], dtype=np.int64)  # type: ignore[arg-type]
        reported, again = metrics.get(f"{name}/accuracy"), 100 * float((said[rows] == truth).mean()) if rows else 0.0
        # One image may tip over between devices; more means that the files are not of one run.
        if reported is not None and abs(again - reported) > 100 / max(len(rows), 1) + 0.1:
            msg = (
                f"{folder}: probe/ on des.parquet has an accuracy of {again:.2f} on {name!r}, metrics.json says {reported:.2f}"
            )
            raise SchemaError(msg)
        found[name] = ([table.id[i] for i in rows], truth, said[rows].astype(np.int64))
    return found


def paired_tests(runs: Mapping[str, Sequence[Path]], *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Every pair of arms, on every set that all arms have.

    Args:
        runs: arm -> probe folders, one per seed.
        resamples: of the bootstrap.
        seed: of bootstrap and permutation.

    Returns:
        `{"resamples", "flips", "level", "seed", "sets": {set: {"images", "pairs": [`compare`'s result with `a`, `b`, `p_holm`]}}}`;
        `p_holm` is adjusted over the pairs of that set (Holm 1979). `{"skipped": reason}` where a folder lacks what is needed.

    Raises:
        SchemaError: arms were evaluated on different images.
    """
    if resamples < 100:
        msg = f"resamples={resamples}; expected at least 100"
        raise ValueError(msg)
    if len(runs) < 2:
        return {"skipped": "one arm alone has nothing to be compared with"}
    try:
        arms = {arm: read_answers(folders) for arm, folders in runs.items()}
    except FileNotFoundError as error:
        return {"skipped": str(error)}
    first = next(iter(arms))
    sets = {}
    for name in [s for s in SETS if all(s in answers for answers in arms.values())]:
        for arm, answers in arms.items():
            if answers[name].ids != arms[first][name].ids or (answers[name].truth != arms[first][name].truth).any():
                msg = (
                    f"Table 6: arms {first!r} ({len(arms[first][name].ids)} images) and {arm!r} ({len(answers[name].ids)}) were "
                    f"evaluated on different images of {name!r}, or with different emotions; they cannot be compared"
                )
                raise SchemaError(msg)
        if not arms[first][name].ids:
            continue
        pairs = [
            {"a": a, "b": b, **compare(arms[a][name], arms[b][name], resamples=resamples, seed=seed)}
            for a, b in combinations(arms, 2)
        ]
        for pair, adjusted in zip(pairs, holm([pair["p"] for pair in pairs]), strict=True):
            pair["p_holm"] = adjusted
        sets[name] = {"images": len(arms[first][name].ids), "pairs": pairs}
    return {"resamples": resamples, "flips": FLIPS, "level": LEVEL, "seed": seed, "sets": sets}


def compare(a: Answers, b: Answers, *, resamples: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Two arms on the same images.

    Returns:
        `accuracy` and `f1`, each `{"difference", "images": [low, high], "seeds_and_images": [low, high] | None}` in points (b − a;
        None with one seed on both sides); `p` of the accuracy, `exact` whether it is McNemar's exact one; `better`, `worse`:
        images on which b's seeds are right more, less often than a's.
    """
    rng = np.random.default_rng(seed)
    draws: dict[str, list[NDArray[np.float64]]] = {"accuracy": [], "f1": []}
    codes = [[_one_hot(side.truth * CLASSES + row) for row in side.said] for side in (a, b)]
    for weights in _bootstrap(len(a.ids), resamples, rng):
        tables = [np.stack([weights @ code for code in side]) for side in codes]  # (seeds, chunk, 64)
        for name, statistic in (("accuracy", _accuracy), ("f1", _macro_f1)):
            draws[name].append(np.concatenate([statistic(t) for t in tables]))  # (seeds of a, then of b; chunk)
    whole = [np.stack([code.sum(axis=0) for code in side]) for side in codes]
    picks = [rng.integers(len(side), size=(len(side), resamples)) for side in codes]
    result: dict[str, Any] = {}
    for name, statistic in (("accuracy", _accuracy), ("f1", _macro_f1)):
        of_a, of_b = np.split(np.concatenate(draws[name], axis=1), [len(codes[0])])
        both = [np.take_along_axis(side, pick, axis=0).mean(axis=0) for side, pick in zip((of_a, of_b), picks, strict=True)]
        several = max(len(side) for side in codes) > 1
        result[name] = {
            "difference": 100 * float(statistic(whole[1]).mean() - statistic(whole[0]).mean()),
            "images": _interval(of_b.mean(axis=0) - of_a.mean(axis=0)),
            "seeds_and_images": _interval(both[1] - both[0]) if several else None,
        }
    gain = b.correct.mean(axis=0) - a.correct.mean(axis=0)
    exact = len(a.said) == len(b.said) == 1
    better, worse = int((gain > 1e-9).sum()), int((gain < -1e-9).sum())
    return {
        **result,
        "p": _mcnemar(better, worse) if exact else _sign_flip(gain, rng),
        "exact": exact,
        "better": better,
        "worse": worse,
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def _one_hot(code: NDArray[np.int64]) -> NDArray[np.float32]:
    """(N,) codes truth × 8 + said to (N, 64); float32 counts exactly to 16 million."""
    return np.eye(CLASSES * CLASSES, dtype=np.float32)[code]


def _bootstrap(images: int, resamples: int, rng: np.random.Generator) -> Iterator[NDArray[np.float32]]:
    """How often each image is drawn: (chunk, N), `resamples` rows in all."""
    step = max(1, _CHUNK // images)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = rng.integers(images, size=(rows, images)) + images * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images).astype(np.float32)


def _accuracy(tables: NDArray[np.float32]) -> NDArray[np.float64]:
    """(…, 64) confusion counts to (…)."""
    square = tables.reshape(*tables.shape[:-1], CLASSES, CLASSES).astype(np.float64)
    return np.trace(square, axis1=-2, axis2=-1) / square.sum(axis=(-2, -1))


def _macro_f1(tables: NDArray[np.float32]) -> NDArray[np.float64]:
    """As torchmetrics: the mean over classes that occur in the truth or among the answers."""
    square = tables.reshape(*tables.shape[:-1], CLASSES, CLASSES).astype(np.float64)
    hits = np.diagonal(square, axis1=-2, axis2=-1)
    total = square.sum(axis=-1) + square.sum(axis=-2)
    return (2 * hits / np.maximum(total, 1)).sum(axis=-1) / (total > 0).sum(axis=-1)


def _interval(values: NDArray[np.float64]) -> list[float]:
    tail = (100 - LEVEL) / 2
    return [100 * float(v) for v in np.percentile(values, (tail, 100 - tail))]


def _mcnemar(better: int, worse: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _sign_flip(gain: NDArray[np.float64], rng: np.random.Generator) -> float:
    moved = gain[gain != 0]
    if not len(moved):
        return 1.0
    limit, extreme = abs(moved.sum()) - 1e-9, 0
    step = max(1, _CHUNK // len(moved))
    for start in range(0, FLIPS, step):
        signs = rng.integers(0, 2, size=(min(step, FLIPS - start), len(moved)), dtype=np.int8) * 2 - 1
        extreme += int((abs(signs @ moved) >= limit).sum())
    return (1 + extreme) / (1 + FLIPS)
