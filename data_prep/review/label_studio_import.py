"""Annotations of Label Studio become the same rows as decisions on our own page (see `label_studio` for the tasks)."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from pydantic import ValidationError

from data_prep.review.decisions import (
    FIELDS,
    RECORD,
    TEXTS,
    VERDICTS,
    Review,
    ReviewError,
    Verdict,
    as_verdict,
    field_json,
    mended,
    standing,
)
from data_prep.review.label_studio import BOX_LABELS
from data_prep.review.log import ReviewLog
from data_prep.review.messages import RegionJSON
from data_prep.review.session import check_name
from emo_lightning.core.foreign import MAX_JSON_BYTES, decode_json, list_of, number_of, object_of, read_capped, text_of
from emo_lightning.core.records import GroundedObject, Record, describe

_SAME = 0.05
"""Pixels by which a box may come back moved and still be the same: percentages are rounded on the way."""


def read_annotations(log: ReviewLog, path: str | Path, reviewer: str | None = None) -> dict[str, int]:
    """Take over the annotations of a Label Studio export (JSON); all of them or, if anything is wrong, none.

    Args:
        log: opened for writing.
        path: of the file.
        reviewer: whose decisions these are; None takes `completed_by` of each annotation.

    Returns:
        Counts: tasks, annotations, cancelled (skipped annotations of Label Studio), added (decisions), known (standing already); and,
        where there are any, decisions older than what stands, which are left out, and parts of no field of ours.

    Raises:
        ReviewError: names the file, the task, the field, what was found and what is allowed.
    """
    data = read_capped(path, MAX_JSON_BYTES, ReviewError)
    tasks = decode_json(data, path, ReviewError)
    if not isinstance(tasks, list):
        msg = f"{path}: expected a list of tasks (Label Studio's JSON export), found {type(tasks).__name__}"
        raise ReviewError(msg)
    counts = Counter(dict.fromkeys(("tasks", "annotations", "cancelled", "added", "known"), 0))
    new: list[Review] = []
    history: dict[tuple[str, str], list[Review]] = {}
    """Of each item and annotator: the rows of the ledger, and those of this file after them."""
    people: set[str] = set()
    for number, entry in enumerate(tasks, 1):
        try:
            task = _Task.read(entry, log)
            counts["tasks"] += 1
            for annotation in sorted(task.annotations, key=_moment):
                counts["annotations"] += 1
                if annotation.get("was_cancelled"):
                    counts["cancelled"] += 1
                    continue
                who = check_name(reviewer or _annotator(annotation), "reviewer")
                people.add(str(annotation.get("completed_by")))
                rows, unknown = _rows(task, annotation, who)
                if unknown:
                    counts["parts of no field of ours"] += unknown
                key = task.record.id, who
                if key not in history:
                    history[key] = log.reviews(item_id=task.record.id, reviewer=who)
                added = _newer(rows, history[key], counts)
                history[key] += added
                new += added
        except ReviewError as error:
            msg = f"{path}: task {number}: {error}"
            raise ReviewError(msg) from None
    if reviewer is not None and len(people) > 1:
        msg = f"{path}: annotations of {len(people)} people ({', '.join(sorted(people))[:200]}); leave out --reviewer: each keeps a name"
        raise ReviewError(msg)
    log.add(new)
    counts["added"] = len(new)
    return dict(counts)


def _newer(rows: list[Review], history: list[Review], counts: Counter[str]) -> list[Review]:
    """What of an annotation is new; an older one never takes the place of what was decided, or taken back, since."""
    # Rows of this file have no place in the history yet: they come after all others.
    numbered = [replace(row, id=row.id or (1 << 62) + number) for number, row in enumerate(history)]
    there = {row.field: row for row in standing(numbered)}
    undone = {row.field: row.time for row in numbered if row.undoes is not None}
    found = []
    for row in rows:
        old = there.get(row.field)
        if old is not None and _what(old) == _what(row):
            counts["known"] += 1
        elif max(undone.get(row.field, row.time), row.time if old is None else old.time) > row.time:
            counts["older than what stands, left out"] += 1
        else:
            found.append(row)
    return found


@dataclass(frozen=True)
class _Task:
    """One task as it comes back, its types checked."""

    record: Record
    shown: dict[str, object]
    intensity: object
    boxes: list[RegionJSON]
    annotations: list[dict[str, object]]

    @classmethod
    def read(cls, entry: object, log: ReviewLog) -> _Task:
        """The task of an export of ours.

        Raises:
            ReviewError: it is none, or its item has no outcome.
        """
        task = object_of(entry, "a task", ReviewError)
        missing = "expected a task that `emo prep review` exported"
        data = task.get("data")
        if not isinstance(data, dict):
            msg = f"key 'data' is missing; {missing}"
            raise ReviewError(msg)
        for key in ("item", "shown", "boxes"):
            if key not in data:
                msg = f"key {key!r} is missing; {missing}"
                raise ReviewError(msg)
        shown = object_of(data["shown"], "'shown'", ReviewError)
        for field in FIELDS:
            if field not in shown:
                msg = f"key {field!r} is missing; {missing}"
                raise ReviewError(msg)
            value = shown[field]
            if field == "objects":
                list_of(value, f"'shown': {field}", ReviewError)
            elif value is not None:
                text_of(value, f"'shown': {field}", ReviewError)
        item_id = text_of(data["item"], "'item'", ReviewError)
        record = Record.from_json(log.outcome(item_id)[1].record, f"outcome of {item_id}")
        given = task.get("annotations")
        annotations = [] if given is None else list_of(given, "'annotations'", ReviewError)
        return cls(
            record,
            {field: shown[field] for field in FIELDS},
            data.get("intensity"),
            [_region(record, box) for box in list_of(data["boxes"], "'boxes'", ReviewError)],
            [object_of(one, "an annotation", ReviewError) for one in annotations],
        )


def _region(record: Record, box: object) -> RegionJSON:
    try:
        region = GroundedObject.model_validate(object_of(box, f"{record.id}: a box", ReviewError))
    except ValidationError as error:
        msg = f"{record.id}: 'boxes': {describe(error)}"
        raise ReviewError(msg) from None
    return cast("RegionJSON", region.model_dump(mode="json"))


def _annotator(annotation: Mapping[str, object]) -> str:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    if isinstance(who, str):
        return who
    if not isinstance(who, int) or isinstance(who, bool):
        msg = f"an annotation does not say who made it (completed_by: {str(who)[:60]!r}); give --reviewer NAME"
        raise ReviewError(msg)
    return f"label-studio-{who}"


def _what(row: Review) -> tuple[str, ...]:
    return row.field, row.verdict, json.dumps(row.shown, sort_keys=True), json.dumps(row.value, sort_keys=True)


def _rows(task: _Task, annotation: Mapping[str, object], who: str) -> tuple[list[Review], int]:
    """The decisions of an annotation, and how many of its parts are of no field of ours."""
    record = task.record
    parts, unknown = _parts(record, annotation)
    subject = _one(record, parts, "subject", "text") or record.subject or ""
    # A submitted prediction brings all values along; somebody who started from nothing has judged, and taken nothing out.
    filled = any(field in parts for field in FIELDS)
    moment = _moment(annotation)
    rows = []
    for field in FIELDS:
        before = task.intensity if field == "intensity" else task.shown[field]
        value: object
        if field == "objects":
            value = _objects(record, parts.get(field, []), task.boxes, subject) if filled else before
        else:
            value = _one(record, parts, field, "text" if field in TEXTS else "choices")
            if field == "intensity" and value is not None:
                value = _whole(record, value)
        said = _one(record, parts, f"{field}_verdict", "choices")
        verdict = _verdict(record, field, said, before, value, filled=filled)
        if verdict is None:
            continue
        if verdict == "mended":
            value = field_json(mended(record, field, value), field)
        rows.append(Review(record.id, field, who, verdict, task.shown[field], value if verdict == "mended" else None, moment))
    if _one(record, parts, RECORD, "choices") is not None:
        rows.append(Review(record.id, RECORD, who, "wrong", None, None, moment))
    return rows, unknown


def _verdict(record: Record, field: str, said: str | None, before: object, value: object, *, filled: bool) -> Verdict | None:
    """What the annotator said of a field, by word and by deed; None: nothing.

    A changed value says more than any word beside it: `right` and another text is a text that is right now.
    """
    if said is not None and as_verdict(said) is None:
        msg = f"{record.id}: {field}: verdict {said!r}; allowed: {', '.join(VERDICTS)}"
        raise ReviewError(msg)
    if field == "objects":
        # No boxes at all are an answer too.
        return "mended" if value != before else as_verdict(said)
    if value is not None and value != before:
        return "mended"
    if said is None and value is None and before is not None and filled:
        # What was shown was taken out, and nothing came in its place.
        return "wrong"
    return as_verdict(said)


def _parts(record: Record, annotation: Mapping[str, object]) -> tuple[dict[str, list[dict[str, object]]], int]:
    """The parts of an annotation by the field that they are of."""
    known = {RECORD, *FIELDS, *(f"{field}_verdict" for field in FIELDS)}
    parts: dict[str, list[dict[str, object]]] = {}
    unknown = 0
    for one in list_of(annotation.get("result"), f"{record.id}: its annotation's 'result'", ReviewError):
        part = object_of(one, f"{record.id}: a part of its annotation", ReviewError)
        name = part.get("from_name")
        if isinstance(name, str) and name in known:
            parts.setdefault(name, []).append(part)
        else:
            unknown += 1
    return parts, unknown


def _value(record: Record, part: Mapping[str, object]) -> dict[str, object]:
    what = f"{record.id}: its annotation is not by the labelling config: 'value' of {str(part.get('from_name'))!r}"
    return object_of(part.get("value"), what, ReviewError)


def _one(record: Record, parts: Mapping[str, list[dict[str, object]]], name: str, key: str) -> str | None:
    """The text or choice of a field: one, or several lines; None where there is none, or only blanks."""
    lines: list[str] = []
    for part in parts.get(name, []):
        what = f"{record.id}: its annotation is not by the labelling config: {name}: {key!r}"
        found = _value(record, part).get(key)
        # Label Studio writes a list, other programs (and its own minimal export) a text.
        lines += (
            [found]
            if isinstance(found, str)
            else [text_of(line, what, ReviewError) for line in list_of(found, what, ReviewError)]
        )
    return "\n".join(lines) if any(line.strip() for line in lines) else None


def _whole(record: Record, value: object) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,2}", value):
        msg = f"{record.id}: intensity: found {str(value)[:60]!r}; allowed: 1–10"
        raise ReviewError(msg)
    return int(value)


def _objects(record: Record, parts: list[dict[str, object]], boxes: list[RegionJSON], subject: str) -> list[RegionJSON]:
    """The boxes of an annotation: those that were there in their old order, then new ones.

    A box is the old one by its place, whatever its id: Label Studio may make ids anew.
    """
    old: dict[int, RegionJSON] = {}
    found: list[tuple[int, RegionJSON]] = []
    # Those that still have their id come first: of two boxes at one place each keeps its own.
    for part in sorted(parts, key=lambda part: _place(part) is None):
        bbox, primary = _box(record, part)
        place = _place(part)
        there = [n for n, box in enumerate(boxes) if n not in old and _moved(box, bbox) <= _SAME]
        if there:
            n = place if place in there else min(there, key=lambda n: (boxes[n]["primary"] != primary, n))
            assert n is not None
            old[n] = boxes[n] if boxes[n]["primary"] == primary else {**boxes[n], "primary": primary}
            found.append((n, old[n]))
        else:
            # To a thousandth of a pixel: the bits that percentages lose must not make another box of it.
            box: RegionJSON = {
                "phrase": subject,
                "bbox": [round(v, 3) for v in bbox],
                "score": 1.0,
                "mask": None,
                "primary": primary,
            }
            found.append((len(boxes) if place is None else place, box))
    return [box for _, box in sorted(found, key=lambda one: one[0])]


def _place(part: Mapping[str, object]) -> int | None:
    """The place among the task's boxes that an id of ours names."""
    found = re.fullmatch(r"object-([0-9]{1,4})", str(part.get("id", "")))
    return int(found[1]) if found else None


def _moved(box: RegionJSON, bbox: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(box["bbox"], bbox, strict=True))


def _box(record: Record, part: Mapping[str, object]) -> tuple[list[float], bool]:
    """Corners in pixels, within the image, and whether it shows the subject."""
    value = _value(record, part)
    what = f"{record.id}: objects"
    if value.get("rotation") and (turned := number_of(value["rotation"], f"{what}: rotation", ReviewError)):
        msg = f"{record.id}: objects: a box is rotated by {turned:g}°; only upright boxes are allowed"
        raise ReviewError(msg)
    x, y, w, h = (number_of(value.get(key), f"{what}: {key}", ReviewError) for key in ("x", "y", "width", "height"))
    width, height = record.width, record.height
    x1, y1, x2, y2 = x * width / 100, y * height / 100, (x + w) * width / 100, (y + h) * height / 100
    labels = value.get("rectanglelabels")
    primary = labels in (BOX_LABELS[0], [BOX_LABELS[0]])
    return [max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)], primary


def _moment(annotation: Mapping[str, object]) -> float:
    """When it was made, or changed last; now, where it does not say so."""
    for key in ("updated_at", "created_at"):
        try:
            return datetime.fromisoformat(str(annotation.get(key))).timestamp()
        except (ValueError, OverflowError, OSError):
            continue
    return time.time()
