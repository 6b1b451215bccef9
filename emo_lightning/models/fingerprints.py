"""Which weights a path stands for, so that results of one model are never taken for those of another."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emo_lightning.core.fingerprints import listing
from emo_lightning.core.model_folders import locate

_KINDS = ("*.safetensors", "*.bin", "config.json", "adapter_config.json", "processor_config.json", "preprocessor_config.json")
"""Files that decide what a model says; an optimiser's state or a README does not."""


def weights_fingerprint(path: str) -> str:
    """sha256 over the files of a model or adapter folder and of the base under it; a hub id stands for itself.

    Args:
        path: as `BackboneConfig.path`.

    Raises:
        BackboneError: neither a folder nor an id.
    """
    base, adapter = locate(path)
    digest = hashlib.sha256()
    for place in (base, *([str(adapter)] if adapter else [])):
        folder = Path(place)
        if not folder.is_dir():
            digest.update(f"id {place}".encode())
            continue
        digest.update(listing(sorted({file for kind in _KINDS for file in folder.glob(kind)})))
    return digest.hexdigest()
