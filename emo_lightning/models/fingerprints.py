"""Which weights a path stood for in version 0.2: what was begun with it, is gone on with. Today it is `core.model_folders.weights_hash`."""

from __future__ import annotations

import hashlib
from pathlib import Path

from emo_lightning.core.fingerprints import listing
from emo_lightning.core.model_folders import locate

_KINDS = ("*.safetensors", "*.bin", "config.json", "adapter_config.json", "processor_config.json", "preprocessor_config.json")
"""Files that decide what a model says; an optimiser's state or a README does not."""


def weights_fingerprint(path: str) -> str:
    """As version 0.2 wrote it: without the tokenizer, and a hub id stands for itself.

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
