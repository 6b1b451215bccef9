"""Records and predictions as JSON lines, one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from emo_lightning.core.emotions import SchemaError
from emo_lightning.core.files import replacing
from emo_lightning.core.foreign import json_lines, open_binary
from emo_lightning.core.records.pixels import refuse_fractions
from emo_lightning.core.records.prediction import Prediction
from emo_lightning.core.records.record import Record, Reference

_R = TypeVar("_R", Reference, Record, Prediction)


def check_pixels(items: Sequence[Reference | Prediction], where: str) -> None:
    """Refuse boxes that are fractions of their image (`refuse_fractions`).

    Args:
        items: of one origin.
        where: file, and line or member, for the message.

    Raises:
        SchemaError: all boxes of all items lie within 0–1.
    """
    refuse_fractions(items, where, annotated=any(isinstance(item, Reference) for item in items))


def read_jsonl(path: str | Path, model: type[_R]) -> Iterator[_R]:
    """Records or predictions of a JSON-lines file, in order; blank lines are skipped.

    Raises:
        MissingFileError: no such file.
        SchemaError: it cannot be read, or a line is no record; names the file, the line and the key.
    """
    with open_binary(path, SchemaError) as lines:
        for where, line in json_lines(lines, path, SchemaError):
            yield model.from_json(line, where)


def write_jsonl(path: str | Path, items: Iterable[Reference | Prediction]) -> int:
    """Write one JSON object per line to a temporary name, then rename; returns how many.

    Half a character (a lone surrogate), which a model may write, stays the escape that it was in its answer.
    """
    count = 0
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as out:
        for item in items:
            out.write(json.dumps(item.model_dump(mode="json"), ensure_ascii=False) + "\n")
            count += 1
    return count
