"""What a stage has written, looked at once more before it calls itself complete."""

from __future__ import annotations

import json
import os
from pathlib import Path

from emo_lightning.core.errors import InputError
from emo_lightning.core.weight_files import check_weight_file

_NO_RESULTS = {".tmp", "logs", "wandb", "checkpoints"}
"""Folders in a stage's whose files are not its results."""


def check_results(folder: Path) -> None:
    """Refuse results that are cut off: weights whose header does not account for every byte, JSON that ends early.

    Raises:
        InputError: names the file.
    """
    for at, folders, names in os.walk(folder):
        top = Path(at) == folder
        folders[:] = [name for name in folders if not (top and name in _NO_RESULTS)]
        for path in (Path(at, name) for name in names):
            if path.suffix == ".safetensors":
                check_weight_file(path)
            # Below it a stage may keep a store of thousands.
            elif path.suffix == ".json" and top:
                _check_json(path)


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        msg = f"{path}: a result that is no whole JSON: {error}; the same command makes it anew"
        raise InputError(msg) from None
