"""Masks as COCO run-length codes, there and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from emo_lightning.core.masks import decode_mask
from emo_lightning.core.records import Mask

__all__ = ["decode_mask", "encode_mask"]


def encode_mask(mask: NDArray[np.bool_]) -> Mask:
    """COCO run-length encoding of a boolean mask, shape (height, width)."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Mask(size=(mask.shape[0], mask.shape[1]), counts=code["counts"].decode())
