"""Results of many images as one file: JSON lines for programs and for `emo eval`, or Parquet with vectors of one size."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emo_lightning.core.files import replacing
from emo_lightning.core.parquet import MODEL_KEY
from emo_lightning.core.records import DIMENSIONS, EMOTIONS
from emo_lightning.inference.parts import ImageResult, OutputParts, as_object, vectors

TABLE_SUFFIXES = (".jsonl", ".parquet")
_ROWS = 1024
"""Of a row group: what is in memory at a time."""
_BOX = pa.struct([("phrase", pa.string()), ("bbox", pa.list_(pa.float64(), 4))])
_TEXTS = ("description", "background", "attribute", "subject")
_EXPLAINED = pa.schema(
    [
        ("id", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        *((name, pa.string()) for name in _TEXTS),
        ("intensity", pa.float64()),
        ("intensity_level", pa.string()),
        *((name, pa.float64()) for name in DIMENSIONS),
        ("objects", pa.list_(_BOX)),
        ("said_emotion", pa.string()),
        ("said_confidence", pa.float64()),
        ("probe_emotion", pa.string()),
        ("probe_confidence", pa.float64()),
        ("probe_calibrated", pa.bool_()),
        ("probe_distribution", pa.list_(pa.float64(), len(EMOTIONS))),
        ("conformal_set", pa.list_(pa.string())),
        ("agreement", pa.string()),
        ("unlike", pa.bool_()),
        ("unlike_score", pa.float64()),
        ("unlike_threshold", pa.float64()),
    ]
)


def write_results(out: Path, names: Sequence[str], parts: OutputParts) -> int:
    """Write what is known of these images, in this order; returns how many they are.

    Args:
        out: its ending is the format.
        names: ids.
        parts: with results of `explain` or of `embed` alone.
    """
    results = parts.results(names)
    return _lines(out, results) if out.suffix == ".jsonl" else _parquet(out, results, parts.about.get("weights"))


def _lines(out: Path, results: Iterator[ImageResult]) -> int:
    count = 0
    with replacing(out) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as lines:
        for result in results:
            lines.write(json.dumps(as_object(result), ensure_ascii=False) + "\n")
            count += 1
    return count


def _parquet(out: Path, results: Iterator[ImageResult], weights: object) -> int:
    count, writer = 0, None
    metadata = {MODEL_KEY: weights.encode()} if isinstance(weights, str) else None
    with replacing(out) as temporary:
        try:
            while rows := list(islice(results, _ROWS)):
                table = _table(rows).replace_schema_metadata(metadata)
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
                count += len(rows)
        finally:
            if writer is not None:
                writer.close()
    return count


def _table(rows: Sequence[ImageResult]) -> pa.Table:
    des = vectors(np.stack([row.des for row in rows]))
    if not rows[0].said:
        # As `des.parquet` of a stage, so that whatever reads that reads this.
        empty = {"emotion": pa.nulls(len(rows), pa.string()), "split": pa.array([""] * len(rows))}
        return pa.table({"id": [row.id for row in rows], **empty, "des": des})
    table = pa.Table.from_pylist([_flat(json.loads(row.said)) for row in rows], schema=_EXPLAINED)
    return table.append_column("des", des)


def _flat(said: Mapping[str, object]) -> dict[str, object]:
    """One explanation as columns."""
    words, probe, unlike = said["said"], said["probe"], said.get("unlike")
    assert isinstance(words, dict)
    found = {name: said.get(name) for name in _EXPLAINED.names} | {"unlike": None}
    found |= {"said_emotion": words["emotion"], "said_confidence": words["confidence"]}
    if isinstance(probe, dict):
        found |= {
            "probe_emotion": probe["emotion"],
            "probe_confidence": probe["confidence"],
            "probe_calibrated": probe["calibrated"],
            "probe_distribution": [probe["distribution"][str(emotion)] for emotion in EMOTIONS],
            "conformal_set": probe["conformal_set"],
        }
    if isinstance(unlike, dict):
        found |= {"unlike": unlike["is_unlike"], "unlike_score": unlike["score"], "unlike_threshold": unlike["threshold"]}
    return found
