"""Faithfulness of one region, on demand: what becomes of the emotion when it is covered, beside boxes of its size elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from emo_lightning.analysis.faithfulness import MaskPlan, falls, random_boxes
from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.images import masked, whole_pixels
from emo_lightning.serve.bodies import Strict
from emo_lightning.serve.failures import ApiError
from emo_lightning.serve.looking import PictureRequest
from emo_lightning.serve.service import while_connected
from emo_lightning.serve.shapes import EmbeddingsInput, FiniteNumber, given_input

if TYPE_CHECKING:
    from fastapi import Request
    from PIL.Image import Image

    from emo_lightning.serve.looking import PictureResult
    from emo_lightning.serve.service import Service

_MOST_DRAWS = 16
_MOST_PIXELS = 4_000_000
"""Of a copy; a larger picture is made smaller before it is covered."""


class CoverRequest(Strict):
    """A picture and a region of it."""

    image: EmbeddingsInput
    box: Annotated[list[FiniteNumber], Field(min_length=4, max_length=4)]
    """[x1, y1, x2, y2] in pixels of the upright picture; what leaves it is cut off."""
    cover: Literal["mean", "blur"] = "mean"
    """By the picture's mean colour, or blurred."""
    draws: int = Field(8, ge=1, le=_MOST_DRAWS)
    """Boxes of the same size at random places, always the same ones, to compare with."""
    model: str | None = None


async def covered(request: Request, service: Service, asked: CoverRequest) -> dict[str, object]:
    """How far the emotion's probability falls (paper's faithfulness; `analysis.faithfulness`), in points.

    Raises:
        ApiError: 400, no picture, or nothing of the box is in it; 503, no room; 404, the model has no probe.
    """
    if not service.about.has_probe:
        raise ApiError(404, "the model has no probe, which gives the emotion's probability", "no_probe")
    picture = given_input(asked.image, "image")
    with service.places.hold(asked.draws + 2) as held:

        async def work() -> dict[str, object]:
            (image,) = await service.pictures.open([picture], held)
            # Copies of it.
            held.take_pixels((asked.draws + 1) * min(image.width * image.height, _MOST_PIXELS))
            images = await service.pictures.aside(lambda: _images(image, asked))
            return _as_json(await service.ask([PictureRequest(one) for one in images]), asked)

        return await while_connected(request, work())


def _images(image: Image, asked: CoverRequest) -> list[Image]:
    """The whole picture, the region covered, and boxes elsewhere, where there is room for them."""
    # The model sees fewer pixels still.
    scale = min(1.0, (_MOST_PIXELS / (image.width * image.height)) ** 0.5)
    small = image if scale == 1 else image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    box = whole_pixels([scale * corner for corner in asked.box], small.size)
    if box is None:
        msg = f"box {asked.box}: nothing of it is within {image.width}x{image.height}"
        raise ApiError(400, msg, "invalid_value", "box")
    plan = MaskPlan(asked.cover, asked.draws)
    others = random_boxes(box, small.size, plan, np.random.default_rng(plan.seed)) or []
    return [small, *(masked(small, one, asked.cover) for one in (box, *others))]


def _as_json(found: list[PictureResult], asked: CoverRequest) -> dict[str, object]:
    distributions = [one.probe.distribution for one in found if one.probe is not None]
    whole = found[0]
    fall = falls(np.array([[one[emotion] for emotion in EMOTIONS] for one in distributions]))
    return {
        "object": "faithfulness",
        "emotion": str(fall.emotion),
        "probability": fall.probability,
        "fall": fall.grounded,
        "random_fall": fall.random,
        "surplus": None if fall.random is None else fall.grounded - fall.random,
        "draws": len(found) - 2,
        "cover": asked.cover,
        "unlike": None if whole.unlike is None else whole.unlike.as_json(),
        "distribution": {str(emotion): share for emotion, share in distributions[1].items()},
    }
