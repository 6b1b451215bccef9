"""The demo world as a source of images: every sample is a pure function of (seed, split, index)."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from emo_lightning.core.records import Emotion, GroundedObject, Mask, Record, intensity_level

from .affect import Affect, TripletKey, affect, all_triplets, held_out, noisy_label
from .captions import affective_description, neutral_caption
from .draw import Layer, draw_scene
from .style import FLAT, STYLES

WORLD_SPLITS = ("backbone", "pretrain", "train", "val", "test", "heldout")
"""`backbone` holds all combinations, as the pretraining of a downloaded model does; `heldout` holds only those that no later split has,
and the others the rest."""

WORLD_LICENCE = "CC0-1.0"
WORLD_ORIGIN = "drawn by the world source"

_FORMATS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("jpg", "JPEG", {"quality": 90}),
    ("png", "PNG", {"compress_level": 2}),
    ("webp", "WEBP", {"quality": 90, "method": 1}),
)
_FORMAT_WEIGHTS = (80, 12, 8)


@dataclass(frozen=True)
class WorldSample:
    """An image and all that is true of it."""

    key: str
    image: bytes
    extension: Literal["jpg", "png", "webp"]
    truth: Record
    """Everything, exact: triplet, objects with masks, emotion, soft scores, intensity; description = affective."""
    neutral: Record
    """The same image with a neutral description and no emotion, intensity, scores or latent."""
    human_emotion: Emotion
    """The label that a human gave: wrong with probability `label_noise`."""
    split: str


class World:
    """Images whose whole truth is known.

    Args:
        seed: decides the held-out combinations and every sample.
        label_noise: probability that `human_emotion` is drawn from the rest of the soft truth (0–1).
        style: a name in `style.STYLES`.
        attribute_share: of the images whose neutral caption and record name the attribute (0–1). An image that is among them at one
            share is at every larger one; pictures, and the rest of each caption, are the same at all.

    Raises:
        ValueError: a style, a label noise or a share that is not allowed.
    """

    def __init__(self, seed: int = 0, label_noise: float = 0.05, style: str = "flat", attribute_share: float = 1.0) -> None:
        if style not in STYLES:
            msg = f"world has no style {style!r}; allowed: {', '.join(STYLES)}"
            raise ValueError(msg)
        if not 0 <= label_noise <= 1:
            msg = f"label_noise is {label_noise}; allowed: 0 to 1"
            raise ValueError(msg)
        if not 0 <= attribute_share <= 1:
            msg = f"attribute_share is {attribute_share}; allowed: 0 to 1"
            raise ValueError(msg)
        self.seed = seed
        self.attribute_share = attribute_share
        self.label_noise = label_noise
        self.style = STYLES[style]
        self.held_out = held_out(seed)

    def triplet(self, split: str, index: int) -> TripletKey:
        """The combination that a sample shows. Each run through all combinations of a split is a new order of them."""
        self._check(split, index)
        count = len(_combinations(self.seed, split))
        return _round_of_triplets(self.seed, split, index // count)[index % count]

    def sample(self, split: str, index: int) -> WorldSample:
        """Sample `index` (from 0, without end) of a split.

        Raises:
            ValueError: an unknown split or a negative index.
        """
        triplet = self.triplet(split, index)
        rng = random.Random(f"world/{self.style.name}/{self.seed}/{split}/{index}")
        scene = draw_scene(triplet, self.style, rng)
        extension, format_, options = rng.choices(_FORMATS, weights=_FORMAT_WEIGHTS)[0]
        image = _encode(scene.image, format_, options)
        truth = affect(*triplet)
        # Samples of two styles may stand in one experiment: their keys differ. The first style keeps the short form.
        styled = "" if self.style is FLAT else f"{self.style.name}-"
        key = f"world-{styled}{split}-{index:06d}"

        primary, *distractors = scene.layers
        x1, _, x2, _ = primary.box
        # A generator of its own: the pictures and all other wordings stay as they are at any share.
        named = random.Random(f"world/attribute/{self.seed}/{split}/{index}").random() < self.attribute_share
        neutral_text = neutral_caption(
            triplet,
            (x1 + x2) / 2 / scene.image.width,
            scene.scale,
            [d.phrase for d in distractors],
            rng,
            name_attribute=named,
        )
        common: dict[str, Any] = {
            "id": key,
            "source": "world",
            "width": scene.image.width,
            "height": scene.image.height,
            "sha256": hashlib.sha256(image).hexdigest(),
            "split": split,
            "background": triplet[0],
            "attribute": triplet[1],
            "subject": triplet[2],
            "objects": [_grounded(layer) for layer in scene.layers],
        }
        origin = {"licence": WORLD_LICENCE, "origin": WORLD_ORIGIN}
        return WorldSample(
            key=key,
            image=image,
            extension=extension,  # type: ignore[arg-type]
            truth=Record(
                **common,
                description=affective_description(triplet, rng),
                emotion=truth.emotion,
                emotion_scores=truth.scores,
                confidence=truth.confidence,
                intensity=truth.intensity,
                intensity_level=intensity_level(truth.intensity),
                provenance={"truth": self._latent(truth, triplet), **origin},
            ),
            neutral=Record(
                **common | {"attribute": triplet[1] if named else None}, description=neutral_text, provenance=dict(origin)
            ),
            human_emotion=noisy_label(truth, self.label_noise, rng),
            split=split,
        )

    def samples(self, split: str, count: int, start: int = 0) -> Iterator[WorldSample]:
        """`count` samples of a split from index `start`, in order."""
        for index in range(start, start + count):
            yield self.sample(split, index)

    def _latent(self, truth: Affect, triplet: TripletKey) -> dict[str, object]:
        pleasure, arousal, dominance = truth.latent
        return {
            "pleasure": pleasure,
            "arousal": arousal,
            "dominance": dominance,
            "held_out": triplet in self.held_out,
            "seed": self.seed,
            "style": self.style.name,
        }

    @staticmethod
    def _check(split: str, index: int) -> None:
        if split not in WORLD_SPLITS:
            msg = f"world has no split {split!r}; allowed: {', '.join(WORLD_SPLITS)}"
            raise ValueError(msg)
        if index < 0:
            msg = f"world has no sample {index} of split {split!r}; allowed: 0 and more"
            raise ValueError(msg)


def _combinations(seed: int, split: str) -> list[TripletKey]:
    """Those that a split shows."""
    if split == "backbone":
        return all_triplets()
    out = held_out(seed)
    return [t for t in all_triplets() if (t in out) == (split == "heldout")]


@lru_cache(maxsize=64)
def _round_of_triplets(seed: int, split: str, round_: int) -> tuple[TripletKey, ...]:
    """Every combination of the split once, in an order of (seed, split, round)."""
    triplets = _combinations(seed, split)
    random.Random(f"world/order/{seed}/{split}/{round_}").shuffle(triplets)
    return tuple(triplets)


def _encode(image: Image.Image, format_: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def _grounded(layer: Layer) -> GroundedObject:
    encoded = coco.encode(np.asfortranarray(layer.mask, dtype=np.uint8))
    mask = Mask(size=(layer.mask.shape[0], layer.mask.shape[1]), counts=encoded["counts"].decode("ascii"))
    return GroundedObject(phrase=layer.phrase, bbox=layer.box, score=1.0, mask=mask, primary=layer.primary)
