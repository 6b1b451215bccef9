"""What of a predicted box lies in its picture. A box is scored as it was said, and cut only where it is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence

from emo_lightning.core.records import Box


def inside(box: Sequence[float], size: tuple[int, int]) -> Box | None:
    """The part of a box within a picture.

    Args:
        box: (x1, y1, x2, y2) in pixels.
        size: (width, height) in pixels.

    Returns:
        None where nothing of it is: it is empty, turned, not finite, or wholly outside.
    """
    x1, y1, x2, y2 = box
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 < x2 and y1 < y2):
        return None
    width, height = size
    cut = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    return cut if cut[0] < cut[2] and cut[1] < cut[3] else None
