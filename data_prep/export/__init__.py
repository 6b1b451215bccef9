"""Records and images → WebDataset tars that any reader opens, byte-identical for the same input."""

from __future__ import annotations

from data_prep.export.shards import CARD, MANIFEST, ExportError, write_shards
from data_prep.export.store import Selection, export_store

__all__ = ["CARD", "MANIFEST", "ExportError", "Selection", "export_store", "write_shards"]
