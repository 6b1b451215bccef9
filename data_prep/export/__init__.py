"""Records and images → WebDataset tars that any reader opens, byte-identical for the same input."""

from __future__ import annotations

from data_prep.export.earlier import ExportError
from data_prep.export.manifest import Manifest
from data_prep.export.pictures import IMAGE_TYPES, ImageType
from data_prep.export.shards import write_shards
from data_prep.export.store import Selection, export_store
from emo_lightning.core.file_names import CARD_FILE, MANIFEST_FILE

__all__ = [
    "CARD_FILE",
    "IMAGE_TYPES",
    "MANIFEST_FILE",
    "ExportError",
    "ImageType",
    "Manifest",
    "Selection",
    "export_store",
    "write_shards",
]
