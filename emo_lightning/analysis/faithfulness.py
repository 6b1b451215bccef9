"""Word-to-region faithfulness: does the emotion's probability depend on the region that the words were grounded to?

The region is masked, and the fall of the probability of the emotion that the model saw in the whole image is compared with the mean
fall under boxes of the same width and height at random places of the same image. Only a surplus over those says that the region
matters: masking anything costs something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.records import EMOTIONS, Emotion, PredictedObject, Prediction, SchemaError
from emo_lightning.data.images import MaskFill, PixelBox, masked, whole_pixels
from emo_lightning.metrics.bootstrap import RESAMPLES, draws, mean_estimate

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

MAX_TRIES_PER_BOX = 60
"""Places tried for each random box before an image counts as without room."""


class ProbedModel(Protocol):
    """The part of `inference.model.EmotionModel` that is measured."""

    @property
    def probe(self) -> object | None:
        """None where the model gives no probabilities."""
        ...

    def embed(self, images: Sequence[Image]) -> Tensor:
        """(N, des_dim)."""
        ...

    def distribution(self, des: Tensor) -> Tensor | None:
        """(N, 8)."""
        ...


@dataclass(frozen=True)
class MaskPlan:
    """How regions are masked.

    Raises:
        SchemaError: draws below 1, or max_overlap not from 0 to 1.
    """

    mask: MaskFill = "mean"
    """`mean` paints the image's mean colour, `blur` blurs."""
    draws: int = 8
    """Random boxes per image."""
    max_overlap: float = 0.3
    """Most intersection over union of a random box with the grounded one."""
    seed: int = 0
    """Of the random boxes and of the bootstrap."""

    def __post_init__(self) -> None:
        if self.draws < 1 or not 0 <= self.max_overlap < 1 or self.seed < 0:
            msg = (
                f"draws is {self.draws}, max_overlap is {self.max_overlap}, seed is {self.seed}; expected at least 1, from 0 to below "
                "1, and at least 0"
            )
            raise SchemaError(msg)


class Surplus(TypedDict):
    """Mean of grounded minus random, in points, with its interval and p of Wilcoxon's signed-rank test."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None


class FaithfulnessSummary(TypedDict):
    """Several images."""

    images: int
    grounded: float
    """Mean fall of the probability when the grounded box is masked, in points."""
    random: float
    """The same for the random boxes."""
    surplus: Surplus
    larger: float
    """Share of images in which the grounded box counts for more, percent."""


class ImageFaithfulness(TypedDict):
    """One image."""

    id: str
    words: str
    emotion: str
    """That the model sees in the whole image."""
    probability: float
    """Of it, percent."""
    grounded: float
    """Its fall, in points, when the grounded box is masked."""
    random: float
    """Its mean fall under the random boxes."""


class Faithfulness(TypedDict):
    """`faithfulness.json`."""

    summary: FaithfulnessSummary
    emotions: dict[str, FaithfulnessSummary]
    skipped: dict[str, int]
    """Reason -> images."""
    rows: list[ImageFaithfulness]
    mask: MaskFill
    draws: int
    max_overlap: float
    seed: int
    boxes: str
    """Whose boxes were masked: "predicted" or "annotated"."""


@dataclass(frozen=True)
class _Case:
    id: str
    words: str
    image: Image
    box: PixelBox
    controls: list[PixelBox]


def random_boxes(box: PixelBox, size: tuple[int, int], plan: MaskPlan, rng: np.random.Generator) -> list[PixelBox] | None:
    """Boxes of the same width and height, uniformly placed inside the image, that overlap the given one by no more than allowed.

    Args:
        box: the grounded one.
        size: (width, height) of the image.
        plan: how many and how far off.
        rng: source of the places.

    Returns:
        `plan.draws` boxes, or None where the image has no room for them.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    found: list[PixelBox] = []
    for _ in range(MAX_TRIES_PER_BOX * plan.draws):
        x = int(rng.integers(0, size[0] - width + 1))
        y = int(rng.integers(0, size[1] - height + 1))
        candidate = (x, y, x + width, y + height)
        if _overlap(box, candidate) <= plan.max_overlap:
            found.append(candidate)
            if len(found) == plan.draws:
                return found
    return None


def _overlap(a: PixelBox, b: PixelBox) -> float:
    both = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return both / (2 * (a[2] - a[0]) * (a[3] - a[1]) - both)


def faithfulness(
    model: Path | ProbedModel,
    references: Sequence[str],
    boxes: Path | None,
    plan: MaskPlan,
    limit: int | None = None,
    batch_size: int = 16,
) -> Faithfulness:
    """Measure a bundle on tars.

    Args:
        model: folder of an emotion model, its hub id, or loaded.
        references: tars; JSON lines hold no images.
        boxes: predictions whose boxes are masked; None takes the references' primary boxes.
        plan: how regions are masked.
        limit: only the first so many references.
        batch_size: images at a time.

    Raises:
        SchemaError: the bundle has no probe, the references have no images, or no image can be measured.
    """
    from emo_lightning.inference.model import EmotionModel

    net: ProbedModel = EmotionModel.from_pretrained(model) if isinstance(model, str | Path) else model
    if net.probe is None:
        msg = "the bundle has no probe, which gives the emotion's probability: set `probe` in its bundle stage"
        raise SchemaError(msg)
    skipped: dict[str, int] = {}
    rows = [_measure(net, case, plan, batch_size) for case in _cases(references, boxes, plan, limit, skipped)]
    if not rows:
        why = ", ".join(f"{n} {reason}" for reason, n in skipped.items())
        msg = f"no image can be measured: {why}"
        raise SchemaError(msg)
    by_emotion = {str(e): own for e in EMOTIONS if (own := [r for r in rows if r["emotion"] == e])}
    return {
        "summary": _summary(rows, plan.seed),
        "emotions": {name: _summary(own, plan.seed) for name, own in by_emotion.items()},
        "skipped": skipped,
        "rows": rows,
        "mask": plan.mask,
        "draws": plan.draws,
        "max_overlap": plan.max_overlap,
        "seed": plan.seed,
        "boxes": "predicted" if boxes else "annotated",
    }


def _cases(
    references: Sequence[str], boxes: Path | None, plan: MaskPlan, limit: int | None, skipped: dict[str, int]
) -> Iterable[_Case]:
    from emo_lightning.analysis.references import References, load_predictions

    truth = References.load(list(references))
    if not truth.has_images:
        msg = "faithfulness masks images, and JSON lines hold none: give the tars"
        raise SchemaError(msg)
    said = load_predictions(boxes, truth) if boxes else None
    for row, record in enumerate(truth.records[:limit]):
        objects = record.primary_objects if said is None else _predicted(said, record.id)
        image = truth.picture(row)
        if image is None:
            skipped["whose picture cannot be read"] = skipped.get("whose picture cannot be read", 0) + 1
            continue
        usable = [(o, b) for o in objects if (b := whole_pixels(o.bbox, image.size)) is not None]
        if not usable:
            skipped["without a box"] = skipped.get("without a box", 0) + 1
            continue
        # The largest region: with several, one is masked, so that a random place for it can be found.
        chosen, box = max(usable, key=lambda pair: (pair[1][2] - pair[1][0]) * (pair[1][3] - pair[1][1]))
        controls = random_boxes(box, image.size, plan, np.random.default_rng([plan.seed, row]))
        if controls is None:
            reason = "with a box too large for another of its size beside it"
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        yield _Case(record.id, chosen.phrase or "", image, box, controls)


def _predicted(said: Mapping[str, Prediction], identity: str) -> Sequence[PredictedObject]:
    return said[identity].objects if identity in said else []


def _measure(net: ProbedModel, case: _Case, plan: MaskPlan, batch_size: int) -> ImageFaithfulness:
    images = [case.image, *(masked(case.image, box, plan.mask) for box in (case.box, *case.controls))]
    found = []
    for start in range(0, len(images), batch_size):
        scores = net.distribution(net.embed(images[start : start + batch_size]))
        if scores is None:
            msg = "a model without a probe, which `faithfulness` should have refused"
            raise RuntimeError(msg)
        found.append(scores.double().numpy())
    p = np.concatenate(found)
    if not np.isfinite(p).all():
        msg = f"id {case.id!r}: the model's probabilities are not finite; nothing can be measured"
        raise SchemaError(msg)
    fall = falls(p)
    assert fall.random is not None
    return {
        "id": case.id,
        "words": case.words,
        "emotion": str(fall.emotion),
        "probability": fall.probability,
        "grounded": fall.grounded,
        "random": fall.random,
    }


class Falls(NamedTuple):
    """How far the probability of the emotion that a model sees falls, in points."""

    emotion: Emotion
    """The most probable in the whole image."""
    probability: float
    """Of it, percent."""
    grounded: float
    """When the region is masked."""
    random: float | None
    """Mean over the random boxes; None without any."""


def falls(p: NDArray[np.float64]) -> Falls:
    """What masking does to the emotion.

    Args:
        p: probabilities of the whole image, of that with its region masked, and of those with random boxes masked: (2 + draws, 8).
    """
    top = int(p[0].argmax())
    random = 100 * float(p[0, top] - p[2:, top].mean()) if len(p) > 2 else None
    return Falls(EMOTIONS[top], 100 * float(p[0, top]), 100 * float(p[0, top] - p[1, top]), random)


def _summary(rows: Sequence[ImageFaithfulness], seed: int) -> FaithfulnessSummary:
    from scipy.stats import wilcoxon

    grounded, control = np.array([r["grounded"] for r in rows]), np.array([r["random"] for r in rows])
    surplus = grounded - control
    # Signed ranks need a difference; one image says nothing.
    p = float(wilcoxon(surplus).pvalue) if len(rows) > 1 and surplus.any() else None
    return {
        "images": len(rows),
        "grounded": float(grounded.mean()),
        "random": float(control.mean()),
        "surplus": {**mean_estimate(surplus, draws([r["id"] for r in rows], RESAMPLES, seed)), "p": p},
        "larger": 100 * float((surplus > 0).mean()),
    }
