"""COCO's run-length codes as pixels, by numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.emotions import SchemaError
from emo_lightning.core.records import Mask

_LONGEST = 7
"""Characters of one run: more than any picture has pixels."""


def decode_mask(mask: Mask) -> NDArray[np.bool_]:
    """A mask as pixels: boolean, shape (height, width).

    Raises:
        SchemaError: its runs are no text of COCO's, or do not fill the picture.
    """
    height, width = mask.size
    runs = _runs(mask.counts)
    # pycocotools writes runs of any length behind the end of its memory.
    if runs is None or (runs < 0).any() or int(runs.sum()) != height * width:
        msg = f"mask of {height}x{width}: {mask.counts[:40]!r} is no run-length code of so many pixels"
        raise SchemaError(msg)
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape((height, width), order="F")


def _runs(counts: str) -> NDArray[np.int64] | None:
    """Lengths of runs as `rleFrString` of COCO reads them, 5 bits a character; None where it is no such text."""
    if not counts or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 0x20) == 0)
    if codes.min() < 0 or codes.max() > 63 or not len(ends) or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > _LONGEST:
        return None
    bits = (codes & 0x1F) << 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat(bits, starts) - np.where(codes[ends] & 0x10, 1 << 5 * lengths, 0)
    # From the fourth on they are differences to the one before the last.
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values
