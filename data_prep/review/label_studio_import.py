"""Annotations of Label Studio become the same rows as decisions on our own page (see `label_studio` for the tasks)."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from data_prep.review.decisions import (
    FIELDS,
    RECORD,
    TEXTS,
    VERDICTS,
    Review,
    ReviewError,
    as_verdict,
    field_json,
    mended,
    standing,
)
from data_prep.review.label_studio import BOX_LABELS, Annotation, Part
from data_prep.review.log import ReviewLog
from data_prep.review.messages import RegionJSON
from data_prep.review.session import check_name
from emo_lightning.core.foreign import decode_json
from emo_lightning.core.records import Record

_SAME = 0.05
"""Pixels by which a box may come back moved and still be the same: percentages are rounded on the way."""


def read_annotations(log: ReviewLog, path: str | Path, reviewer: str | None = None) -> dict[str, int]:
    """Take over the annotations of a Label Studio export (JSON); all of them or, if anything is wrong, none.

    Args:
        log: opened for writing.
        path: of the file.
        reviewer: whose decisions these are; None takes `completed_by` of each annotation.

    Returns:
        Counts: tasks, annotations, cancelled (skipped annotations of Label Studio), added (decisions), known (standing already).

    Raises:
        ReviewError: names the file, the task, the field, what was found and what is allowed.
    """
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise ReviewError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}"
        raise ReviewError(msg) from None
    tasks = decode_json(text, path, ReviewError)
    if not isinstance(tasks, list):
        msg = f"{path}: expected a list of tasks (Label Studio's JSON export), found {type(tasks).__name__}"
        raise ReviewError(msg)
    counts = Counter(dict.fromkeys(("tasks", "annotations", "cancelled", "added", "known"), 0))
    new: list[Review] = []
    for number, task in enumerate(tasks, 1):
        where = f"{path}: task {number}"
        counts["tasks"] += 1
        try:
            data, annotations = task["data"], task.get("annotations") or []
            item_id, shown, boxes = data["item"], {field: data["shown"][field] for field in FIELDS}, list(data["boxes"])
        except (TypeError, KeyError, AttributeError) as error:
            msg = f"{where}: key {error} is missing; expected a task that `emo prep review` exported"
            raise ReviewError(msg) from None
        if (
            not isinstance(item_id, str)
            or not isinstance(annotations, list)
            or not all(isinstance(a, dict) for a in annotations)
        ):
            msg = f"{where}: found item {item_id!r} and annotations {str(annotations)[:60]!r}; expected text and a list of objects"
            raise ReviewError(msg)
        try:
            record = Record.from_json(log.outcome(item_id)[1].record, f"outcome of {item_id}")
            for annotation in annotations:
                counts["annotations"] += 1
                if annotation.get("was_cancelled"):
                    counts["cancelled"] += 1
                    continue
                who = check_name(reviewer or _annotator(annotation), "reviewer")
                rows = list(_rows(record, shown, data.get("intensity"), boxes, annotation, who))
                known = {_what(row) for row in standing(log.reviews(item_id=item_id, reviewer=who))}
                counts["known"] += sum(_what(row) in known for row in rows)
                new += [row for row in rows if _what(row) not in known]
        except ReviewError as error:
            msg = f"{where}: {error}"
            raise ReviewError(msg) from None
    log.add(new)
    counts["added"] = len(new)
    return dict(counts)


def _annotator(annotation: Annotation) -> str:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return str(who) if isinstance(who, str) else f"label-studio-{who}"


def _what(row: Review) -> tuple[str, ...]:
    return row.field, row.verdict, json.dumps(row.shown, sort_keys=True), json.dumps(row.value, sort_keys=True)


def _rows(
    record: Record,
    shown: Mapping[str, object],
    intensity: object,
    boxes: list[RegionJSON],
    annotation: Annotation,
    who: str,
) -> Iterator[Review]:
    parts: dict[str, list[Part]] = {}
    try:
        for part in annotation["result"]:
            parts.setdefault(part["from_name"], []).append(part)
        found = {field: _found(record, field, parts, boxes) for field in FIELDS}
        verdicts = {field: _one(parts, f"{field}_verdict", "choices") for field in FIELDS}
        discard = _one(parts, RECORD, "choices")
    except (TypeError, KeyError, ValueError) as error:
        msg = f"{record.id}: its annotation is not by the labelling config: {type(error).__name__} {error}"
        raise ReviewError(msg) from None
    moment = _moment(annotation)
    for field in FIELDS:
        said, value = verdicts[field], found[field]
        unchanged = value == (intensity if field == "intensity" else shown[field])
        if said is None and not unchanged and value not in (None, []):
            said = "mended"
        if said is None:
            continue
        verdict = as_verdict(said)
        if verdict is None:
            msg = f"{record.id}: {field}: verdict {said!r}; allowed: {', '.join(VERDICTS)}"
            raise ReviewError(msg)
        if verdict == "mended":
            value = field_json(mended(record, field, value), field)
        yield Review(record.id, field, who, verdict, shown[field], value if verdict == "mended" else None, moment)
    if discard is not None:
        yield Review(record.id, RECORD, who, "wrong", None, None, moment)


def _one(parts: Mapping[str, list[Part]], name: str, key: Literal["text", "choices"]) -> str | None:
    values = [value for part in parts.get(name, []) for value in part["value"][key]]
    return "\n".join(values) if values else None


def _found(record: Record, field: str, parts: Mapping[str, list[Part]], boxes: list[RegionJSON]) -> object:
    """The value of a field as the annotation has it; None where there is none."""
    if field in TEXTS:
        return _one(parts, field, "text")
    if field != "objects":
        text = _one(parts, field, "choices")
        return int(text) if field == "intensity" and text is not None else text
    subject = _one(parts, "subject", "text") or record.subject or ""
    return [_object(record, part, boxes, subject) for part in parts.get("objects", [])]


def _object(record: Record, part: Part, boxes: list[RegionJSON], subject: str) -> RegionJSON:
    value = part["value"]
    if value.get("rotation"):
        msg = f"{record.id}: objects: a box is rotated by {value['rotation']}°; only upright boxes are allowed"
        raise ReviewError(msg)
    width, height = record.width, record.height
    x1, y1 = value["x"] * width / 100, value["y"] * height / 100
    x2, y2 = x1 + value["width"] * width / 100, y1 + value["height"] * height / 100
    primary = value["rectanglelabels"] == [BOX_LABELS[0]]
    origin = str(part.get("id", ""))
    place = origin.removeprefix("object-")
    if origin.startswith("object-") and place.isdecimal() and int(place) < len(boxes):
        obj = boxes[int(place)]
        moved = max(abs(a - b) for a, b in zip((x1, y1, x2, y2), obj["bbox"], strict=True))
        if moved <= _SAME:
            return obj if obj["primary"] == primary else {**obj, "primary": primary}
    # To a thousandth of a pixel: the bits that percentages lose must not make another box of it.
    box = [round(v, 3) for v in (max(0.0, x1), max(0.0, y1), min(width, x2), min(height, y2))]
    return {"phrase": subject, "bbox": box, "score": 1.0, "mask": None, "primary": primary}


def _moment(annotation: Annotation) -> float:
    try:
        return datetime.fromisoformat(str(annotation["created_at"])).timestamp()
    except (KeyError, ValueError):
        return time.time()
