"""Reviews through Label Studio: tasks with a labelling config out, its annotations in, as the same rows as from our own page.

Per field a task has the value as a prediction, and an annotator says right, wrong or mended (or just changes the value, which is
mended). Boxes travel in percent of the image; masks do not travel: a box that comes back where it was keeps its own.
"""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from data_prep.review import decisions as rules
from data_prep.review.decisions import FIELDS, RECORD, VERDICTS, Review, ReviewError, shown_value, standing
from data_prep.review.log import ReviewLog
from data_prep.review.session import ReviewSession, check_name
from emo_lightning.core.records import EMOTIONS, Record

_MIME = {"jpg": "jpeg", "png": "png", "webp": "webp"}
_TEXTS = ("description", "background", "attribute", "subject")
_SAME = 0.05
"""Pixels by which a box may come back moved and still be the same: percentages are rounded on the way."""
BOX_LABELS = ("primary", "other")


def labelling_config() -> str:
    """XML for the project's labelling interface."""
    view = xml.Element("View")
    xml.SubElement(view, "Image", name="image", value="$image")
    boxes = xml.SubElement(view, "RectangleLabels", name="objects", toName="image")
    for label, colour in zip(BOX_LABELS, ("#d9480f", "#1971c2"), strict=True):
        xml.SubElement(boxes, "Label", value=label, background=colour)
    hint = (
        "Say right, wrong or mended for each field; a value that you change counts as mended. The intensity is judged by level."
    )
    xml.SubElement(view, "Header", value=hint, size="6")
    for field in FIELDS:
        xml.SubElement(view, "Header", value=f"{field}: ${field}_shown", size="5")
        _choices(view, f"{field}_verdict", VERDICTS)
        if field == "emotion":
            _choices(view, field, EMOTIONS)
        elif field == "intensity":
            _choices(view, field, [str(i) for i in range(1, 11)])
        elif field in _TEXTS:
            xml.SubElement(view, "TextArea", name=field, toName="image", maxSubmissions="1", editable="true", rows="2")
    xml.SubElement(view, "Header", value="The whole record", size="5")
    _choices(view, RECORD, ["discard"])
    xml.indent(view)
    return xml.tostring(view, encoding="unicode") + "\n"


def _choices(view: xml.Element, name: str, values: Any) -> None:
    # `single-radio` could never be taken back.
    node = xml.SubElement(view, "Choices", name=name, toName="image", choice="single", showInline="true")
    for value in values:
        xml.SubElement(node, "Choice", value=str(value))


def write_tasks(session: ReviewSession, path: str | Path, *, embed: bool = False, with_reviews: bool = False) -> Path:
    """Write the sample of a session as tasks (JSON), and the labelling config beside it; returns the path of the latter.

    Args:
        session: whose sample, in its order.
        path: of the JSON file.
        embed: images as data URIs; otherwise as paths for a local-files root at the store.
        with_reviews: the standing decisions of the session's reviewer go along as annotations.
    """
    path = Path(path)
    tasks = [_task(session, item_id, embed, with_reviews) for item_id in session.queue]
    config = path.with_name(path.name + ".xml")
    for target, text in ((config, labelling_config()), (path, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")):
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    return config


def _task(session: ReviewSession, item_id: str, embed: bool, with_reviews: bool) -> dict[str, Any]:
    item, record = session.record(item_id)
    if embed:
        image, extension = session.image(item_id)
        address = f"data:image/{_MIME[extension]};base64,{base64.b64encode(image).decode()}"
    else:
        where = session.store.image_path(item.sha256, item.extension).relative_to(session.store.root)
        address = f"/data/local-files/?d={where.as_posix()}"
    shown = {field: shown_value(record, field) for field in FIELDS}
    texts = {f"{field}_shown": "–" if value is None else str(value) for field, value in shown.items()}
    texts["objects_shown"] = f"{len(record.objects)} boxes"
    values = {**shown, "intensity": record.intensity}
    rows = standing(session.log.reviews(item_id=item_id, reviewer=session.reviewer)) if with_reviews else []
    boxes = [*shown["objects"]]
    for row in rows:
        if row.field == "objects" and row.verdict == "mended":
            boxes += [obj for obj in row.value if obj not in boxes]
    result = [part for field in FIELDS for part in _value(record, field, values[field], boxes)]
    task: dict[str, Any] = {
        "data": {"image": address, "item": item.id, "shown": shown, "intensity": record.intensity, "boxes": boxes, **texts},
        "predictions": [{"model_version": f"emo prep: {session.states[item_id]}", "result": result}],
    }
    if rows:
        # A value that was decided replaces the prediction; the rest comes along as Label Studio would submit it.
        decided = [part for row in rows for part in _decision(record, row, boxes)]
        mended = {row.field for row in rows if row.verdict == "mended"}
        rest = [part for field in FIELDS if field not in mended for part in _value(record, field, values[field], boxes)]
        created = datetime.fromtimestamp(rows[-1].time).astimezone().isoformat()
        task["annotations"] = [
            {"result": [*rest, *decided], "created_at": created, "completed_by": {"email": session.reviewer}}
        ]
    return task


def _value(record: Record, field: str, value: Any, boxes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if value is None:
        return
    if field == "objects":
        for obj in value:
            yield _box(record, obj, boxes.index(obj))
    elif field in _TEXTS:
        yield _part(field, "textarea", {"text": [value]})
    else:
        yield _part(field, "choices", {"choices": [str(value)]})


def _decision(record: Record, row: Review, boxes: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if row.field == RECORD:
        if row.verdict == "wrong":
            yield _part(RECORD, "choices", {"choices": ["discard"]})
        return
    yield _part(f"{row.field}_verdict", "choices", {"choices": [row.verdict]})
    if row.verdict == "mended":
        yield from _value(record, row.field, row.value, boxes)


def _part(name: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"id": name, "from_name": name, "to_name": "image", "type": kind, "value": value}


def _box(record: Record, obj: dict[str, Any], place: int) -> dict[str, Any]:
    x1, y1, x2, y2 = obj["bbox"]
    width, height = record.width, record.height
    value = {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
        "rectanglelabels": [BOX_LABELS[not obj["primary"]]],
    }
    # The id leads back to the object with its phrase, score and mask.
    size = {"original_width": width, "original_height": height, "image_rotation": 0, "score": obj["score"]}
    return {**_part("objects", "rectanglelabels", value), "id": f"object-{place}", **size}


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
        tasks = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise ReviewError(msg) from None
    except ValueError as error:
        msg = f"{path}: not JSON: {error}"
        raise ReviewError(msg) from None
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


def _annotator(annotation: dict[str, Any]) -> str:
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return str(who) if isinstance(who, str) else f"label-studio-{who}"


def _what(row: Review) -> tuple[str, ...]:
    return row.field, row.verdict, json.dumps(row.shown, sort_keys=True), json.dumps(row.value, sort_keys=True)


def _rows(
    record: Record, shown: dict[str, Any], intensity: Any, boxes: list[dict[str, Any]], annotation: dict[str, Any], who: str
) -> Iterator[Review]:
    parts: dict[str, list[dict[str, Any]]] = {}
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
        verdict, value = verdicts[field], found[field]
        unchanged = value == (intensity if field == "intensity" else shown[field])
        if verdict is None and not unchanged and value not in (None, []):
            verdict = "mended"
        if verdict is None:
            continue
        if verdict not in VERDICTS:
            msg = f"{record.id}: {field}: verdict {verdict!r}; allowed: {', '.join(VERDICTS)}"
            raise ReviewError(msg)
        if verdict == "mended":
            value = rules.mended(record, field, value).model_dump(mode="json", include={field})[field]
        yield Review(record.id, field, who, verdict, shown[field], value if verdict == "mended" else None, moment)
    if discard is not None:
        yield Review(record.id, RECORD, who, "wrong", None, None, moment)


def _one(parts: dict[str, list[dict[str, Any]]], name: str, key: str) -> Any:
    values = [value for part in parts.get(name, []) for value in part["value"][key]]
    return "\n".join(values) if values else None


def _found(record: Record, field: str, parts: dict[str, list[dict[str, Any]]], boxes: list[dict[str, Any]]) -> Any:
    """The value of a field as the annotation has it; None where there is none."""
    if field in _TEXTS:
        return _one(parts, field, "text")
    if field != "objects":
        text = _one(parts, field, "choices")
        return int(text) if field == "intensity" and text is not None else text
    subject = _one(parts, "subject", "text") or record.subject or ""
    return [_object(record, part, boxes, subject) for part in parts.get("objects", [])]


def _object(record: Record, part: dict[str, Any], boxes: list[dict[str, Any]], subject: str) -> dict[str, Any]:
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


def _moment(annotation: dict[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(annotation["created_at"])).timestamp()
    except (KeyError, ValueError):
        return time.time()
