"""What "calmer", "more:awe" or "less:fear" mean: a direction between the mean embeddings of emotions.

All embeddings are taken at length 1, as the index compares angles. c(E) is the mean of the images of an emotion E, x the image that one
begins with, and o its own emotion. The point that is searched from is

    z = x + strength · (c(towards) − c(from))

For a wish towards emotions T: towards = T, from = o; so what sets x apart from others of its emotion stays as it is, as in "king − man +
woman". Where o is among T, or nobody knows it, from = all others. `less:E` goes from E to all others. `stronger` and `weaker` go between the
images of high and of low intensity of x's own emotion, or of all, where its own lack one of them.

The comparatives stand where their adjective lies among Mikels' eight in the plane of valence and arousal (Russell 1980): calm is pleasant and
quiet, which of the eight is contentment alone; gloomy is unpleasant and quiet, and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS, Emotion, IntensityLevel
from emo_lightning.core.text import shown

Float64Array = NDArray[np.float64]

_E = Emotion
PLEASANT = (_E.AMUSEMENT, _E.AWE, _E.CONTENTMENT, _E.EXCITEMENT)
UNPLEASANT = (_E.ANGER, _E.DISGUST, _E.FEAR, _E.SADNESS)

ADJECTIVES: dict[str, tuple[str, tuple[Emotion, ...]]] = {
    "calm": ("calmer", (_E.CONTENTMENT,)),
    "happy": ("happier", (_E.AMUSEMENT, _E.CONTENTMENT, _E.EXCITEMENT)),
    "funny": ("funnier", (_E.AMUSEMENT,)),
    "lively": ("livelier", (_E.EXCITEMENT,)),
    "grand": ("grander", (_E.AWE,)),
    "sad": ("sadder", (_E.SADNESS,)),
    "gloomy": ("gloomier", (_E.SADNESS, _E.FEAR)),
    "scary": ("scarier", (_E.FEAR,)),
    "angry": ("angrier", (_E.ANGER,)),
    "nasty": ("nastier", (_E.DISGUST,)),
    "pleasant": ("pleasanter", PLEASANT),
    "unpleasant": ("unpleasanter", UNPLEASANT),
}
"""Adjective -> its comparative, and the emotions that it lies towards."""
_COMPARATIVES = dict(ADJECTIVES.values())
_STRENGTHS: dict[str, tuple[IntensityLevel, IntensityLevel]] = {"stronger": ("low", "high"), "weaker": ("high", "low")}

ALLOWED_WISHES = (
    f"{', '.join([*_COMPARATIVES, *_STRENGTHS])}, more:WORD, less:WORD, emotion:WORD; WORD is one of "
    f"{', '.join(EMOTIONS)}, {', '.join(ADJECTIVES)}"
)


@dataclass(frozen=True)
class Wish:
    """How the images that are looked for should differ."""

    text: str
    """As it was said."""
    kind: Literal["towards", "away", "strength"]
    emotions: tuple[Emotion, ...] = ()
    """Towards or away from which."""
    levels: tuple[IntensityLevel, IntensityLevel] | None = None
    """From which to which intensity."""
    only: bool = False
    """Whether an image has to be of one of `emotions`."""

    @classmethod
    def parse(cls, text: str) -> Wish:
        """Read one.

        Raises:
            InputError: a word that has no meaning here; says which have.
        """
        verb, colon, word = (part.strip().lower() for part in text.partition(":"))
        if not colon and verb in _STRENGTHS:
            return cls(text, "strength", levels=_STRENGTHS[verb])
        if not colon and verb in _COMPARATIVES:
            return cls(text, "towards", _COMPARATIVES[verb])
        emotions = _meant(word)
        if colon and emotions is not None and verb in ("more", "less", "emotion"):
            return cls(text, "away" if verb == "less" else "towards", emotions, only=verb == "emotion")
        msg = f"wish {shown(text)}; allowed: {ALLOWED_WISHES}"
        raise InputError(msg)


def _meant(word: str) -> tuple[Emotion, ...] | None:
    if word in ADJECTIVES:
        return ADJECTIVES[word][1]
    return (Emotion(word),) if word in tuple(EMOTIONS) else None


@dataclass(frozen=True)
class Centroid:
    """Mean embedding of the images of one emotion and level."""

    emotion: Emotion
    level: IntensityLevel | None
    """None: of images whose intensity is not known."""
    count: int
    mean: Float64Array
    """(des_dim,), of embeddings at length 1."""


class Centroids:
    """Mean embeddings by emotion and level.

    Args:
        rows: of one index.
        where: its place, for messages.
    """

    def __init__(self, rows: Sequence[Centroid], where: str) -> None:
        self._rows = list(rows)
        self._where = where

    @property
    def emotions(self) -> list[Emotion]:
        """Those that have an image."""
        return [emotion for emotion in EMOTIONS if any(row.emotion is emotion for row in self._rows)]

    def direction(self, wish: Wish, own: Emotion | None) -> Float64Array:
        """Where a wish goes, (des_dim,).

        Args:
            wish: what is asked for.
            own: emotion of the image that one begins with.

        Raises:
            InputError: the index lacks images of an emotion or of a level.
        """
        if wish.levels is not None:
            return self._between_levels(wish, own)
        named = self._there(wish)
        others = [emotion for emotion in self.emotions if emotion not in wish.emotions]
        if wish.kind == "away":
            return self._mean(others, wish) - self._mean(named, wish)
        start = [own] if own in others else others
        return self._mean(named, wish) - self._mean(start, wish)

    def of(self, emotion: Emotion) -> Float64Array | None:
        """The mean of all images of an emotion; None without one."""
        return self._weighted([row for row in self._rows if row.emotion is emotion])

    def _there(self, wish: Wish) -> list[Emotion]:
        found = [emotion for emotion in wish.emotions if emotion in self.emotions]
        if not found:
            there = ", ".join(self.emotions) or "no emotions"
            msg = f"{self._where}: wish {wish.text!r} needs images of {' or '.join(wish.emotions)}; the index has {there}"
            raise InputError(msg)
        return found

    def _mean(self, emotions: Sequence[Emotion | None], wish: Wish) -> Float64Array:
        """Each emotion counts the same, however many images it has."""
        means = [mean for emotion in emotions if emotion is not None and (mean := self.of(emotion)) is not None]
        if not means:
            msg = f"{self._where}: wish {wish.text!r} needs images of another emotion too; the index has {', '.join(self.emotions)} alone"
            raise InputError(msg)
        return np.asarray(np.mean(means, axis=0), np.float64)

    def _between_levels(self, wish: Wish, own: Emotion | None) -> Float64Array:
        assert wish.levels is not None
        for emotions in ([own] if own is not None else [], self.emotions):
            ends = []
            for level in wish.levels:
                rows = [row for row in self._rows if row.level == level and row.emotion in emotions]
                ends.append(self._weighted(rows))
            if ends[0] is not None and ends[1] is not None:
                return ends[1] - ends[0]
        msg = f"{self._where}: wish {wish.text!r} needs images of {' and of '.join(wish.levels)} intensity"
        raise InputError(msg)

    @staticmethod
    def _weighted(rows: Sequence[Centroid]) -> Float64Array | None:
        count = sum(row.count for row in rows)
        return sum((row.count * row.mean for row in rows), np.zeros(1)) / count if count else None


class CentroidSums:
    """Centroids while images pass by."""

    def __init__(self) -> None:
        self._sums: dict[tuple[Emotion, IntensityLevel | None], tuple[int, Float64Array]] = {}

    def add(self, emotions: Sequence[str | None], levels: Sequence[str | None], vectors: NDArray[np.float32]) -> None:
        """Count a stretch of images; those without an emotion are of none.

        Args:
            emotions: N.
            levels: N.
            vectors: (N, des_dim).
        """
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
        units = vectors / lengths
        pairs = list(zip(emotions, levels, strict=True))
        for emotion, level in set(pairs):
            if emotion is None:
                continue
            rows = [n for n, pair in enumerate(pairs) if pair == (emotion, level)]
            key = Emotion(emotion), _level(level)
            count, total = self._sums.get(key, (0, np.zeros(vectors.shape[1])))
            self._sums[key] = count + len(rows), total + units[rows].sum(axis=0)

    def centroids(self) -> list[Centroid]:
        """Of all that have passed, in order."""
        order = sorted(self._sums.items(), key=lambda one: (one[0][0].position, one[0][1] or ""))
        return [Centroid(emotion, level, count, total / count) for (emotion, level), (count, total) in order]


def _level(text: object) -> IntensityLevel | None:
    return next((level for level in INTENSITY_LEVELS if level == text), None)


def as_centroid(row: Mapping[str, object]) -> Centroid:
    """A row of the table of centroids."""
    return Centroid(
        Emotion.parse(str(row["emotion"])), _level(row["level"]), int(str(row["count"])), np.asarray(row["mean"], np.float64)
    )
