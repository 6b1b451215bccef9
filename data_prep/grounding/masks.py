"""Masks as COCO run-length codes, there and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from emo_lightning.core.records import Mask


def encode_mask(mask: NDArray[np.bool_]) -> Mask:
    """COCO run-length encoding of a boolean mask, shape (height, width)."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Mask(size=(mask.shape[0], mask.shape[1]), counts=code["counts"].decode())


def decode_mask(mask: Mask) -> NDArray[np.bool_]:
    """The inverse of `encode_mask`: boolean, shape (height, width)."""
    pixels: NDArray[np.bool_] = coco.decode({"size": list(mask.size), "counts": mask.counts.encode()}).astype(bool)
    return pixels
