"""The records that every part of the project exchanges: no torch, no I/O beyond JSON lines.

One JSON object per image, the same in the ledger, in a tar and (leniently typed) in a predictions file. Paper: section 3.1.2.
"""

from __future__ import annotations

from emo_lightning.core.emotions import (
    EMOTIONS,
    INTENSITY_LEVELS,
    NO_EMOTION,
    Emotion,
    IntensityLevel,
    SchemaError,
    intensity_level,
)
from emo_lightning.core.records.lines import check_pixels, read_jsonl, write_jsonl
from emo_lightning.core.records.parsing import describe
from emo_lightning.core.records.prediction import PredictedObject, Prediction
from emo_lightning.core.records.ratings import DIMENSIONS, Rating, Votes
from emo_lightning.core.records.record import (
    BOX_TOLERANCE,
    DES_EXTENSION,
    IMAGE_EXTENSIONS,
    SCHEMA_VERSION,
    SOURCE_SHA256,
    TRIPLET_PARTS,
    Box,
    GroundedObject,
    Mask,
    Record,
    Reference,
    Triplet,
    TripletPart,
)

__all__ = [
    "BOX_TOLERANCE",
    "DES_EXTENSION",
    "DIMENSIONS",
    "EMOTIONS",
    "IMAGE_EXTENSIONS",
    "INTENSITY_LEVELS",
    "NO_EMOTION",
    "SCHEMA_VERSION",
    "SOURCE_SHA256",
    "TRIPLET_PARTS",
    "Box",
    "Emotion",
    "GroundedObject",
    "IntensityLevel",
    "Mask",
    "PredictedObject",
    "Prediction",
    "Rating",
    "Record",
    "Reference",
    "SchemaError",
    "Triplet",
    "TripletPart",
    "Votes",
    "check_pixels",
    "describe",
    "intensity_level",
    "read_jsonl",
    "write_jsonl",
]
