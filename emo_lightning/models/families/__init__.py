"""Families of backbones: everything that depends on which one it is.

A newcomer adds one: a file beside this one that makes a `Family`, and its name in the tuple below. Importing this costs no torch.
"""

from __future__ import annotations

from emo_lightning.models.families.base import BACKBONE_PARTS, BackbonePart, Family, FamilyError, Processor, VisionInputs
from emo_lightning.models.families.boxes import AbsolutePixels, BoxCodec, Relative1000, Size
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.families.qwen3_5 import QWEN3_5
from emo_lightning.models.families.qwen3_vl import QWEN3_VL

__all__ = [
    "BACKBONE_PARTS",
    "FAMILIES",
    "AbsolutePixels",
    "BackbonePart",
    "BoxCodec",
    "Family",
    "FamilyError",
    "Processor",
    "Relative1000",
    "Size",
    "VisionInputs",
    "family_of",
    "strictest_aspect_ratio",
]

FAMILIES: dict[str, Family] = {family.model_type: family for family in (QWEN2_5_VL, QWEN3_VL, QWEN3_5)}
"""By `model_type`."""


def family_of(model_type: str) -> Family:
    """The family of a model, by the `model_type` of its Hugging Face configuration.

    Raises:
        FamilyError: it is none of those that are supported; lists them.
    """
    if model_type not in FAMILIES:
        msg = f"model_type {model_type!r} is not supported; allowed: {', '.join(sorted(FAMILIES))}"
        raise FamilyError(msg)
    return FAMILIES[model_type]


def strictest_aspect_ratio() -> float:
    """Longer side over shorter side that every family accepts."""
    return min(family.max_aspect_ratio for family in FAMILIES.values())
