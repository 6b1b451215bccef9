"""Pictures whose size no plan can be made with, left out by `data.on_error: skip`: what stands in their place in a table of samples.

A picture that cannot be read has the size that its record says, so that its place can be kept. Two kinds have no such size: an image
without a readable header in a tar of others, whose record is made of it, and a picture longer than any backbone takes. Their rows keep what
is known of them, and are planned with as if they had `STAND_IN_SIZE`, the same on every rank and after a resume.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.shard_index import ShardIndex, set_label
from emo_lightning.core.stores import ByteStore
from emo_lightning.core.tar_labels import MAX_LABEL_BYTES, LabelledImage, TarLabels
from emo_lightning.models.families import strictest_aspect_ratio

STAND_IN_SIZE = (56, 56)
"""(width, height) in pixels: few, as what is computed of them counts nowhere."""


def too_long(sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which pictures no processor of a backbone takes, (N,).

    Args:
        sizes: (width, height) of each, (N, 2).
    """
    longer: NDArray[np.bool_] = sizes.max(axis=1) > strictest_aspect_ratio() * sizes.min(axis=1)
    return longer


def beyond_limit(width: int, height: int) -> str:
    """What is wrong with a picture that is too long."""
    return f"{width}x{height}: aspect ratio above {strictest_aspect_ratio():g}, which the backbone refuses"


def with_unreadable(index: ShardIndex, store: ByteStore, labels: TarLabels) -> ShardIndex:
    """The index of a tar of others in which a sample whose label is sound is valid, although its image has no size (0, 0).

    A label that means nothing stays what it is, an error.

    Args:
        index: as it was made of the tar.
        store: the tar's bytes; those of labels alone are read.
        labels: what they mean.
    """
    rows, texts = index.rows.copy(), {text: number for number, text in enumerate(index.texts)}
    for row in np.flatnonzero(~rows["valid"]).tolist():
        entry, key = rows[row], index.keys[row]
        if entry["json_l"] > MAX_LABEL_BYTES:
            continue
        label = store.read(int(entry["json_o"]), int(entry["json_l"]))
        if zlib.crc32(label) != entry["json_c"]:
            continue
        # One that is too large has no hash: its id needs one.
        known = f"{key} {entry['image_l']} {entry['image_c']}"
        sha256 = entry["sha256"].decode() or hashlib.sha256(known.encode()).hexdigest()
        set_label(entry, key, label, LabelledImage(*STAND_IN_SIZE, sha256), texts, labels)
        entry["width"] = entry["height"] = 0
    return replace(index, rows=rows, texts=list(texts))
