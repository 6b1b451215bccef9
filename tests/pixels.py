"""Pictures as transformers' own image processor gives them, of what this project's batches hold."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from emo_lightning.models.families.base import Processor
from emo_lightning.models.families.patches import pixel_scale


def both_frames(still: Tensor) -> Tensor:
    """(P, 3 · n) as (P, 3 · 2 · n)."""
    return still.unflatten(1, (3, 1, -1)).expand(-1, -1, 2, -1).flatten(1)


def for_transformers(inputs: Mapping[str, Tensor], processor: Processor) -> dict[str, Tensor]:
    """Inputs of the model with pixels as a model that this project did not load takes them."""
    scale = pixel_scale(processor.image_processor)
    assert scale is not None
    return {**inputs, "pixel_values": both_frames(scale.normalised(inputs["pixel_values"]))}
