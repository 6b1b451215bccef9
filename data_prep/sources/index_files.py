"""Index files row by row, each with its place, and what a row holds: texts and numbers, checked.

JSON is read by `json_index`, tables by `table_index`; sources need this module alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceError
from data_prep.sources.json_index import json_records
from data_prep.sources.places import Place, open_text
from data_prep.sources.table_index import column_of, table_rows
from emo_lightning.core.errors import MissingFileError
from emo_lightning.core.foreign import as_number, decode_json, read_capped
from emo_lightning.core.text import shown

__all__ = [
    "Place",
    "as_object",
    "column_of",
    "json_records",
    "number",
    "open_text",
    "optional_text",
    "small_json",
    "table_rows",
    "text",
]

_MAX_SMALL = 2**20
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


def small_json(path: Path) -> dict[str, object]:
    """The object of one small file.

    Raises:
        RefusedError: it cannot be read, has more than a mebibyte, is not JSON, or is no object.
    """
    try:
        value = decode_json(read_capped(path, _MAX_SMALL, SourceError), path.name, SourceError, on_constant=lambda _: None)
    except (SourceError, MissingFileError) as error:
        msg = str(error).removeprefix(f"{path.parent}/")
        raise RefusedError(msg) from None
    return as_object(value, path.name)


def as_object(value: object, what: str) -> dict[str, object]:
    """A JSON object.

    Raises:
        RefusedError: something else.
    """
    if not isinstance(value, dict):
        msg = f"no JSON object: {what} is {shown(value)}"
        raise RefusedError(msg)
    return value


def text(row: Mapping[str, object], key: str) -> str:
    """A text that must be there.

    Raises:
        RefusedError: missing, empty or no text.
    """
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        msg = f"key {key!r} is {'missing' if value is None else shown(value)}: expected text"
        raise RefusedError(msg)
    return value.strip()


def optional_text(row: Mapping[str, object], key: str) -> str | None:
    """A text, or None where the key is missing, null or empty.

    Raises:
        RefusedError: no text.
    """
    value = row.get(key)
    return None if value is None or value == "" else text(row, key)


def number(row: Mapping[str, object], key: str, low: float, high: float) -> float:
    """A number within limits.

    Raises:
        RefusedError: missing, no number or outside.
    """
    value = row.get(key)
    found = as_number(value)
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        # Of a table, where everything is text.
        found = float(value)
    # `not (low <= x <= high)` and nothing shorter: it catches NaN as well.
    if found is None or not low <= found <= high:
        msg = f"{key} is out of range: {'missing' if value is None else shown(value)}, expected {low:g} to {high:g}"
        raise RefusedError(msg)
    return found
