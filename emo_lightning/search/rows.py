"""Rows of an index: what a record, a model's words or its probe say of an image, as typed columns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_lightning.core.emotions import named_emotion
from emo_lightning.core.images import encoded
from emo_lightning.core.records import EMOTIONS, Prediction, Reference, SchemaError, intensity_level
from emo_lightning.search.schema import FILTER_FIELDS, HIT_FIELDS, Identity, images_schema

if TYPE_CHECKING:
    import pyarrow as pa

THUMBNAIL_SIDE = 224
"""Pixels of a thumbnail's longer side at most."""
_QUALITY = 80
_RECORDED = ("source", "split", "width", "height", "sha256", "description", "background", "attribute", "subject")


@dataclass(frozen=True)
class NewRow:
    """An image that goes into an index."""

    id: str
    stamp: str
    """Changes where the image does."""
    file: str | None
    """Where it lies: a path, an address or a tar."""
    member: str | None
    """Its key in the tar."""
    known: Reference | Prediction | None
    """What is true of it, or what a model's words say."""
    des: NDArray[np.float32]
    """(des_dim,)"""
    probed: tuple[str, float] | None = None
    """The probe's emotion and its probability."""
    thumbnail: bytes | None = None
    """JPEG."""


def fault_of(des: NDArray[np.float32], des_dim: int) -> str | None:
    """Why an embedding cannot be searched for; None where it can."""
    if des.shape != (des_dim,):
        return f"its embedding has shape {list(des.shape)}; expected {des_dim} numbers"
    if not np.isfinite(des).all():
        return "its embedding holds a value that is not finite"
    return None if des.any() else "its embedding is all zeros, which has no cosine"


def thumbnail_of(picture: Image.Image) -> bytes:
    """A small JPEG of a picture, RGB, with nothing of what the file says beside its pixels."""
    small = picture.copy()
    # The longer a JPEG's side, the more of it the decoder may leave out.
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    return encoded(small, "JPEG", quality=_QUALITY)


def as_table(rows: Sequence[NewRow], identity: Identity) -> pa.Table:
    """Rows with the columns of `IMAGES_TABLE`."""
    import pyarrow as pa

    schema = images_schema(identity)
    said = [_said(row) for row in rows]
    for one in said:
        shown = {name: one[name] for name in (*FILTER_FIELDS, *HIT_FIELDS) if one.get(name) is not None}
        one["record"] = json.dumps(shown, ensure_ascii=False)
    columns = {
        field.name: pa.array([one.get(field.name) for one in said], field.type) for field in schema if field.name != "des"
    }
    flat = pa.array(np.concatenate([row.des for row in rows]).astype(np.float32))
    columns["des"] = pa.FixedSizeListArray.from_arrays(flat, identity.des_dim)
    return pa.table(columns, schema=schema)


def _said(row: NewRow) -> dict[str, object]:
    known, probed = row.known, row.probed
    found: dict[str, object] = {
        "id": row.id,
        "stamp": row.stamp,
        "file": row.file,
        "member": row.member,
        "thumbnail": row.thumbnail,
        "has_thumbnail": row.thumbnail is not None,
        "probe_emotion": None if probed is None else probed[0],
        "probe_confidence": None if probed is None else probed[1],
    }
    if known is not None:
        found |= {name: getattr(known, name) for name in _RECORDED}
        found |= _felt(known)
        found["objects"] = [
            {
                "phrase": one.phrase,
                "bbox": [_finite(side) for side in one.bbox],
                "score": _finite(one.score),
                "primary": one.primary,
            }
            for one in known.objects
        ]
        found["phrases"] = "; ".join(one.phrase for one in known.objects if one.phrase) or None
    if found.get("emotion") is None and probed is not None:
        found |= {"emotion": probed[0], "emotion_by": "probe"}
    return found


def _felt(known: Reference | Prediction) -> dict[str, object]:
    """Emotion and intensity; of a model's words those that are on our scales."""
    emotion = named_emotion(known.emotion)
    scores = known.emotion_scores
    intensity = _finite(known.intensity)
    try:
        level = None if intensity is None else intensity_level(intensity)
    except SchemaError:
        intensity = level = None
    by = "record" if isinstance(known, Reference) else "said"
    return {
        "emotion": None if emotion is None else str(emotion),
        "emotion_by": None if emotion is None else by,
        "emotion_scores": None if scores is None else [float(scores.get(one, 0.0)) for one in EMOTIONS],
        "confidence": _finite(known.confidence),
        "intensity": intensity,
        "intensity_level": known.intensity_level if isinstance(known, Reference) and known.intensity_level else level,
    }


def _finite(number: float | None) -> float | None:
    """As a column holds it; a model may have said NaN."""
    return None if number is None or not math.isfinite(number) else float(number)
