"""Files of a stage: written under a temporary name and renamed, so that a killed run leaves no half file."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emo_lightning.core.records import SchemaError


def write_bytes(path: Path, data: bytes) -> None:
    """Write atomically; makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically.

    Raises:
        ValueError: a NaN or an infinity, which other JSON readers refuse.
    """
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n").encode())


def read_object(path: Path, on_constant: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: the file.
        on_constant: gives the value of NaN, Infinity and -Infinity, which strict JSON does not have; None takes Python's.

    Raises:
        FileNotFoundError: no such file.
        SchemaError: not JSON, or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=on_constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        msg = f"{path}: not JSON: {error}"
        raise SchemaError(msg) from None
    if not isinstance(found, dict):
        msg = f"{path}: found {type(found).__name__}; expected an object"
        raise SchemaError(msg)
    return found


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a compressed .npz atomically; no pickled objects."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    write_bytes(path, buffer.getvalue())
