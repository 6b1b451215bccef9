"""The resize rule of the Qwen-VL image processors, without transformers and torch."""

from __future__ import annotations

import math

from emo_lightning.core.errors import InputError
from emo_lightning.models.families.boxes import Size

MAX_ASPECT_RATIO = 200
"""Longer side over shorter side that the Qwen image processors accept."""


def resized_size(width: int, height: int, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Size to which the Qwen-VL image processors resize: multiples of `factor`, area within the limits, aspect ratio kept.

    Equal to `smart_resize` of transformers' `qwen2_vl`, without the import of torch.

    Args:
        width: of the original image, pixels.
        height: of the original image, pixels.
        factor: patch size × merge size (14 × 2 for Qwen2.5-VL).
        min_pixels: lower limit of the area (the processor's `shortest_edge`).
        max_pixels: upper limit of the area (the processor's `longest_edge`).

    Returns:
        `(width, height)` of the resized image.

    Raises:
        InputError: empty image, impossible limits, or an aspect ratio above 200.
    """
    if min(width, height) < 1:
        msg = f"image of {width}x{height} pixels is empty"
        raise InputError(msg)
    if not 0 < min_pixels <= max_pixels:
        msg = f"min_pixels {min_pixels} and max_pixels {max_pixels}: expected 0 < min_pixels <= max_pixels"
        raise InputError(msg)
    if max(width, height) / min(width, height) > MAX_ASPECT_RATIO:
        msg = f"image of {width}x{height}: aspect ratio above {MAX_ASPECT_RATIO}, which the backbone refuses"
        raise InputError(msg)
    # Python's round (half to even), as the original: a half-up rounding would differ at odd multiples of factor / 2.
    new_height, new_width = round(height / factor) * factor, round(width / factor) * factor
    if new_height * new_width > max_pixels:
        shrink = math.sqrt((height * width) / max_pixels)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    elif new_height * new_width < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_width, new_height
