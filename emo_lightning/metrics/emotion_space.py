"""How far the eight emotions are from each other, where they are points: in valence and arousal, or in the space of emotion embeddings.

Where a point lies is a setting with a source. One norm puts awe at a valence of -0.06, another at +0.46.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_yaml
from emo_lightning.core.foreign import list_of, number_of, object_of, read_capped, text_of
from emo_lightning.core.parquet import parquet_rows
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.shipped import ANCHORS, anchors_file
from emo_lightning.metrics.arrays import Array

_LEXICON_BYTES = 64 << 20


@dataclass(frozen=True)
class EmotionSpace:
    """The eight as points.

    Args:
        source: where they are from.
        points: (8, D), in the order of `EMOTIONS`.
    """

    source: str
    points: Array

    @property
    def distances(self) -> Array:
        """(8, 8) Euclidean, the largest of them 1."""
        apart = np.linalg.norm(self.points[:, None] - self.points[None], axis=-1)
        found: Array = apart / apart.max()
        return found


@dataclass
class Anchors:
    """The eight emotions as points, in valence and arousal or any other numbers."""

    source: str
    """Where they are from."""
    points: dict[str, list[float]]
    """Emotion -> its coordinates, as many for each."""

    def __post_init__(self) -> None:
        if self.points.keys() != set(map(str, EMOTIONS)):
            msg = f"anchors.points: found {', '.join(map(str, self.points)) or 'none'}; expected {', '.join(EMOTIONS)}"
            raise InputError(msg)
        if not self.source.strip():
            msg = "anchors.source: found an empty text; say where the points are from: norms disagree"
            raise InputError(msg)
        _ = self.space

    @property
    def space(self) -> EmotionSpace:
        """For distances."""
        return _space(self.source, [self.points[str(emotion)] for emotion in EMOTIONS], "anchors")

    def array(self, dimensions: int) -> Array:
        """(8, `dimensions`), in the order of `EMOTIONS`: valence, arousal and, where the points have three numbers, dominance; NaN beyond.

        Raises:
            InputError: the points have another number of coordinates than two or three, or one beyond -1 to 1.
        """
        points = self.space.points
        if points.shape[1] not in (2, 3) or np.abs(points).max() > 1:
            found = f"points of {points.shape[1]} numbers up to {np.abs(points).max():g}"
            msg = f"anchors of {self.source}: found {found}; expected valence, arousal and perhaps dominance, from -1 to 1"
            raise InputError(msg)
        padded: Array = np.full((len(points), dimensions), np.nan)
        padded[:, : points.shape[1]] = points
        return padded


def read_anchors(name: str) -> Anchors:
    """Anchors out of a file: of a path, or of `configs/anchors/NAME.yaml` (`ddes`, `eemo_logic`).

    The keys `source` and `points` stand in it by themselves, or below `model.rewards.anchors`.

    Raises:
        InputError: no such file, or no anchors in it.
    """
    path = anchors_file(name)
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in ANCHORS.glob("*.yaml")))
        msg = f"anchors: found {name[:100]!r}, which is no file; expected a YAML file with source and points, or one of ours: {there}"
        raise InputError(msg)
    content: object = read_yaml(path, InputError)
    for key in ("model", "rewards", "anchors"):
        content = content[key] if isinstance(content, dict) and key in content else content
    if not isinstance(content, dict) or content.keys() != {"source", "points"}:
        msg = f"{path}: expected the keys source and points, alone or below model.rewards.anchors"
        raise InputError(msg)
    points = object_of(content["points"], f"{path}: points")
    return Anchors(
        text_of(content["source"], f"{path}: source"),
        {
            str(emotion): [
                number_of(value, f"{path}: points.{emotion}") for value in list_of(values, f"{path}: points.{emotion}")
            ]
            for emotion, values in points.items()
        },
    )


def read_embeddings(path: str | Path) -> EmotionSpace:
    """Mean direction of the embeddings of each emotion: of a Parquet file with the columns `emotion` and `des`, as a probe stage writes it.

    Where there is a column `split`, those of `train` alone: what is tested must not reward.

    Raises:
        InputError: a column or an emotion is missing.
    """
    totals: dict[str, Array] = {}
    for row in parquet_rows(path, required=("emotion", "des"), rows=512):
        emotion, des = row["emotion"], row["des"]
        if row.get("split", "train") == "train" and isinstance(emotion, str) and isinstance(des, list):
            vector = np.asarray(des, dtype=np.float64)
            totals[emotion] = totals.get(emotion, 0.0) + vector / max(float(np.linalg.norm(vector)), 1e-12)
    if missing := [str(e) for e in EMOTIONS if str(e) not in totals]:
        msg = f"{path}: no embedding of the split train is of {', '.join(missing)}; expected some of each emotion"
        raise InputError(msg)
    rows = [totals[str(e)] / max(float(np.linalg.norm(totals[str(e)])), 1e-12) for e in EMOTIONS]
    return _space(f"mean embeddings of {path}", [row.tolist() for row in rows], path)


def _space(source: str, rows: Sequence[Sequence[float]], path: object) -> EmotionSpace:
    if len({len(row) for row in rows}) > 1 or not rows[0]:
        msg = f"{path}: points have {sorted({len(row) for row in rows})} coordinates; expected as many each"
        raise InputError(msg)
    points = np.asarray(rows, dtype=np.float64)
    if not np.isfinite(points).all() or not np.ptp(points, axis=0).any():
        msg = f"{path}: all eight points are the same, or one is not finite"
        raise InputError(msg)
    return EmotionSpace(source, points)


@dataclass(frozen=True)
class Lexicon:
    """Words with their valence, arousal and dominance.

    Args:
        words: lower case -> (3,).
        precision: (3, 3), inverse covariance over all words: what a Mahalanobis distance is measured by.
    """

    words: dict[str, Array]
    precision: Array

    def distance(self, one: Array, other: Array) -> float:
        """Mahalanobis distance of two points, (3,) each."""
        apart = one - other
        return float(np.sqrt(max(0.0, float(apart @ self.precision @ apart))))

    def points(self, words: Sequence[str]) -> Array:
        """(N, 3) of those that it has."""
        found = [self.words[key] for word in words if (key := word.strip().lower()) in self.words]
        return np.stack(found) if found else np.zeros((0, 3))


def read_lexicon(path: str | Path) -> Lexicon:
    """A table with a heading, divided by tabs or commas: the columns `word` (or `term`), `valence`, `arousal`, `dominance`.

    Raises:
        InputError: a column is missing, a value is no number, or there are fewer than ten words; names file and line.
    """
    lines = read_capped(path, _LEXICON_BYTES, InputError).decode("utf-8", "replace").splitlines()
    mark = "\t" if lines and "\t" in lines[0] else ","
    names = [name.strip().lower() for name in lines[0].split(mark)] if lines else []
    wanted = ["term" if "term" in names else "word", "valence", "arousal", "dominance"]
    if missing := [name for name in wanted if name not in names]:
        msg = f"{path}:1: no column {missing[0]!r}; found {', '.join(names)[:100]}; expected word, valence, arousal, dominance"
        raise InputError(msg)
    at = [names.index(name) for name in wanted]
    words: dict[str, Array] = {}
    for number, line in enumerate(lines[1:], 2):
        cells = line.split(mark)
        try:
            words[cells[at[0]].strip().lower()] = np.array([float(cells[place]) for place in at[1:]])
        except (IndexError, ValueError):
            msg = f"{path}:{number}: found {line[:60]!r}; expected a word and three numbers"
            raise InputError(msg) from None
    points: Array = np.stack(list(words.values())) if words else np.zeros((0, 3))
    if len(words) < 10 or not np.isfinite(points).all():
        msg = f"{path}: {len(words)} words with finite numbers; expected at least 10"
        raise InputError(msg)
    return Lexicon(words, np.linalg.pinv(np.cov(points.T)).astype(np.float64))
