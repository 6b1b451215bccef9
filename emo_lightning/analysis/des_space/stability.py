"""How far an embedding moves when nothing of the feeling changes: crop, JPEG, resolution, and the wording of the prompt.

For every change: the cosine between the embedding of the changed image and of the image itself, the share of its k nearest
neighbours (among the unchanged other images) that are the same, and how often the probe names the same emotion. Embeddings of
one model may all point the same way, so the cosine between *different* images stands beside, and the place of the change between
the two: 1 = did not move, 0 = as far as another image.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.des_space.inputs import mean_interval
from emo_lightning.core.errors import InputError
from emo_lightning.core.images import open_image
from emo_lightning.core.records import SchemaError
from emo_lightning.data.chat import prompt
from emo_lightning.data.collate import Collator
from emo_lightning.metrics.arrays import Array

if TYPE_CHECKING:
    from PIL.Image import Image

    from emo_lightning.inference.model import EmotionModel


DEFAULT_CHANGES = (
    "crop=0.9",
    "crop=0.75",
    "jpeg=75",
    "jpeg=25",
    "resize=0.75",
    "resize=0.5",
    "prompt=Please look at this picture and reply with one JSON object: {keys}",
    "prompt=What does the image make you feel? Give one JSON object: {keys}",
)
"""`crop=SHARE` keeps the middle of both sides, `jpeg=QUALITY` encodes and decodes, `resize=SHARE` shrinks both sides, `prompt=TEXT`
asks in other words, with `{keys}` where the keys are explained."""

Embed: TypeAlias = "Callable[[Sequence[Image], str | None], tuple[Array, NDArray[np.intp] | None]]"
"""(images, wording or None) -> (embeddings (N, des_dim), the probe's classes (N,) or None)."""


class MeanShare(TypedDict):
    """A mean over images with its 95 % interval."""

    value: float
    low: float
    high: float


class ChangeEffect(TypedDict):
    """What one change does."""

    change: str
    kind: str
    cosine: MeanShare
    """Between the embedding of the changed image and of the image itself."""
    cosine_p5: float
    """Its 5th percentile."""
    place: float | None
    """(cosine − other_cosine) / (1 − other_cosine); None where all images look alike."""
    overlap: MeanShare
    """Share of the neighbours that are the same."""
    same_emotion: MeanShare | None
    """None without a probe."""


class Stability(TypedDict):
    """One arm."""

    images: int
    k: int
    other_cosine: float
    """Mean cosine between different images."""
    overlap_chance: float
    changes: list[ChangeEffect]


@dataclass(frozen=True)
class Change:
    """A change that should not matter."""

    kind: str
    """crop, jpeg, resize or prompt."""
    value: float | str
    """A share, a quality, or a wording."""

    @classmethod
    def parse(cls, text: str) -> Change:
        """From `kind=value`.

        Raises:
            InputError: names the text and what is allowed.
        """
        kind, equals, value = text.partition("=")
        match kind:
            case "prompt" if "{keys}" in value:
                return cls(kind, value)
            case "crop" | "resize" | "jpeg" if equals:
                top = 100 if kind == "jpeg" else 1
                try:
                    number = float(value)
                except ValueError:
                    number = -1.0
                if 0 < number <= top and (kind != "jpeg" or number == int(number)):
                    return cls(kind, number)
        msg = (
            f"change {text!r}; allowed: crop=SHARE and resize=SHARE with 0 < SHARE ≤ 1, jpeg=QUALITY with a whole number 1–100, "
            "prompt=TEXT with {keys} in it"
        )
        raise InputError(msg)

    @property
    def name(self) -> str:
        """For tables."""
        if isinstance(self.value, str):
            return f"prompt: {self.value.replace('{keys}', '…')}"
        unit = f"{self.value:.0f}" if self.kind == "jpeg" else f"{100 * self.value:g} %"
        titles = {"crop": "centre crop", "jpeg": "JPEG quality", "resize": "sides shrunk to"}
        return f"{titles[self.kind]} {unit}"

    @property
    def wording(self) -> str | None:
        """The other prompt, or None."""
        return self.value if isinstance(self.value, str) else None

    def apply(self, image: Image) -> Image:
        """The changed image, RGB; a change of wording leaves it alone."""
        import PIL.Image

        if isinstance(self.value, str):
            return image
        width, height = image.size
        if self.kind == "jpeg":
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=int(self.value))
            return open_image(buffer.getvalue()).convert("RGB")
        wide, high = max(1, round(width * self.value)), max(1, round(height * self.value))
        if self.kind == "resize":
            return image.resize((wide, high), PIL.Image.Resampling.BICUBIC)
        left, top = (width - wide) // 2, (height - high) // 2
        return image.crop((left, top, left + wide, top + high))


@dataclass
class _Reworded(Collator):
    """Asks in other words.

    Args:
        wording: with `{keys}` where the usual prompt explains the keys.
    """

    wording: str = "{keys}"

    def _tokenize_prompt(self, keys: tuple[str, ...]) -> list[int]:
        explained = prompt(keys).partition(": ")[2]
        return self._question_tokens(self.wording.replace("{keys}", explained))


def embedder(model: EmotionModel, batch_size: int) -> Embed:
    """The `Embed` of a loaded bundle; its own prompt is put back after each call."""

    def embed(images: Sequence[Image], wording: str | None) -> tuple[Array, NDArray[np.intp] | None]:
        usual = model.collate
        if wording is not None:
            model.collate = _Reworded(usual.processor, usual.model_type, answers=False, wording=wording)
        try:
            parts = [model.embed(images[start : start + batch_size]) for start in range(0, len(images), batch_size)]
        finally:
            model.collate = usual
        said = [model.distribution(part) for part in parts]
        classes = None if said[0] is None else np.concatenate([s.argmax(-1).numpy() for s in said if s is not None])
        return np.concatenate([part.numpy() for part in parts]).astype(np.float64), classes

    return embed


def stability(
    embed: Embed, images: Sequence[Image], changes: Sequence[str] = DEFAULT_CHANGES, k: int = 10, seed: int = 0
) -> Stability:
    """Measure every change.

    Args:
        embed: of `embedder`.
        images: N in RGB, at least 3.
        changes: see `DEFAULT_CHANGES`.
        k: neighbours; fewer where there are fewer images.
        seed: of the intervals' bootstrap over images.

    Raises:
        SchemaError: fewer than 3 images, or an embedding that is not finite or all zeros (names the change).
        InputError: a change that cannot be read, or k < 1.
    """
    parsed = [Change.parse(text) for text in changes]
    if not parsed or k < 1:
        msg = f"k={k} and {len(parsed)} changes; expected at least 1 of each"
        raise InputError(msg)
    if len(images) < 3:
        msg = f"stability: {len(images)} images; expected at least 3, as neighbours are compared"
        raise SchemaError(msg)
    k = min(k, len(images) - 1)
    vectors, named = embed(images, None)
    own = _unit(vectors, "unchanged")
    among = own @ own.T
    before = _nearest(among, k)
    off = ~np.eye(len(own), dtype=bool)
    other = float(among[off].mean())
    rows: list[ChangeEffect] = []
    for change in parsed:
        vectors, said = embed([change.apply(image) for image in images], change.wording)
        moved = _unit(vectors, change.name)
        cosine = (moved * own).sum(axis=1)
        after = _nearest(moved @ own.T, k)
        overlap = np.array([len(set(a) & set(b)) / k for a, b in zip(before.tolist(), after.tolist(), strict=True)])
        same = None if named is None or said is None else (named == said).astype(np.float64)
        rows.append(
            {
                "change": change.name,
                "kind": change.kind,
                "cosine": _mean(cosine, seed),
                "cosine_p5": float(np.percentile(cosine, 5)),
                "place": float((cosine.mean() - other) / (1 - other)) if other < 1 - 1e-9 else None,
                "overlap": _mean(overlap, seed),
                "same_emotion": None if same is None else _mean(same, seed),
            }
        )
    return {"images": len(images), "k": k, "other_cosine": other, "overlap_chance": k / (len(images) - 1), "changes": rows}


def _unit(vectors: Array, change: str) -> Array:
    norms = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        msg = f"stability, {change}: the embedding of image {bad[0]} is {'all zeros' if norms[bad[0]] == 0 else 'not finite'}"
        raise SchemaError(msg)
    unit: Array = vectors / norms[:, None]
    return unit


def _nearest(cosines: Array, k: int) -> NDArray[np.intp]:
    """(N, k) rows of the nearest other images; the diagonal is the image itself."""
    others = -cosines
    np.fill_diagonal(others, np.inf)
    return np.argsort(others, axis=1, kind="stable")[:, :k]


def _mean(values: Array, seed: int) -> MeanShare:
    value, low, high = mean_interval(values, seed)
    return {"value": value, "low": low, "high": high}
