"""Masks as COCO run-length codes, there and back."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco

from emo_lightning.core.records import Mask


def encode_mask(mask: np.ndarray) -> Mask:
    """COCO run-length encoding of a boolean mask, shape (height, width)."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Mask(size=(mask.shape[0], mask.shape[1]), counts=code["counts"].decode())


def decode_mask(mask: Mask) -> np.ndarray:
    """The inverse of `encode_mask`: boolean, shape (height, width)."""
    return coco.decode({"size": list(mask.size), "counts": mask.counts.encode()}).astype(bool)
