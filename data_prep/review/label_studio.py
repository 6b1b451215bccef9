"""Reviews through Label Studio: tasks with a labelling config go out; `label_studio_import` takes its annotations back.

Per field a task has the value as a prediction, and an annotator says right, wrong or mended (or just changes the value, which is
mended). Boxes travel in percent of the image; masks do not travel: a box that comes back where it was keeps its own.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NotRequired, TypedDict, cast
from xml.etree import ElementTree

from data_prep.review.decisions import (
    REVIEW_VERDICTS,
    REVIEWED_FIELDS,
    TEXT_FIELDS,
    WHOLE_RECORD,
    Review,
    regions_of,
    shown_value,
    standing,
)
from data_prep.review.messages import RegionJSON
from data_prep.review.session import ReviewSession
from emo_lightning.core.files import write_text
from emo_lightning.core.records import EMOTIONS, Record

_MIME = {"jpg": "jpeg", "png": "png", "webp": "webp"}
BOX_LABELS = ("primary", "other")


class PartValue(TypedDict, total=False):
    """What a part of an annotation says: text, choices, or a box in percent of the image."""

    text: list[str]
    choices: list[str]
    x: float
    y: float
    width: float
    height: float
    rotation: float
    rectanglelabels: list[str]


class LabelStudioPart(TypedDict):
    """One part of an annotation, as Label Studio writes it."""

    id: NotRequired[str]
    from_name: str
    to_name: str
    type: str
    value: PartValue
    original_width: NotRequired[int]
    original_height: NotRequired[int]
    image_rotation: NotRequired[int]
    score: NotRequired[float]


class Annotation(TypedDict, total=False):
    """What one annotator says of a task; in a file that is read, any key may be missing or wrong."""

    result: list[LabelStudioPart]
    created_at: str
    updated_at: str
    completed_by: object
    was_cancelled: bool


class LabelStudioTask(TypedDict):
    """One record to look at."""

    data: dict[str, object]
    predictions: list[dict[str, object]]
    annotations: NotRequired[list[Annotation]]


def labelling_config() -> str:
    """XML for the project's labelling interface."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    boxes = ElementTree.SubElement(view, "RectangleLabels", name="objects", toName="image")
    for label, colour in zip(BOX_LABELS, ("#d9480f", "#1971c2"), strict=True):
        ElementTree.SubElement(boxes, "Label", value=label, background=colour)
    hint = (
        "Say right, wrong or mended for each field; a value that you change counts as mended. The intensity is judged by level."
    )
    ElementTree.SubElement(view, "Header", value=hint, size="6")
    for field in REVIEWED_FIELDS:
        ElementTree.SubElement(view, "Header", value=f"{field}: ${field}_shown", size="5")
        _choices(view, f"{field}_verdict", REVIEW_VERDICTS)
        if field == "emotion":
            _choices(view, field, EMOTIONS)
        elif field == "intensity":
            _choices(view, field, [str(i) for i in range(1, 11)])
        elif field in TEXT_FIELDS:
            ElementTree.SubElement(view, "TextArea", name=field, toName="image", maxSubmissions="1", editable="true", rows="2")
    ElementTree.SubElement(view, "Header", value="The whole record", size="5")
    _choices(view, WHOLE_RECORD, ["discard"])
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _choices(view: ElementTree.Element, name: str, values: Iterable[object]) -> None:
    # `single-radio` could never be taken back.
    node = ElementTree.SubElement(view, "Choices", name=name, toName="image", choice="single", showInline="true")
    for value in values:
        ElementTree.SubElement(node, "Choice", value=str(value))


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
    write_text(config, labelling_config())
    write_text(path, json.dumps(tasks, ensure_ascii=False, indent=1) + "\n")
    return config


def _task(session: ReviewSession, item_id: str, embed: bool, with_reviews: bool) -> LabelStudioTask:
    item, record = session.record(item_id)
    if embed:
        image, extension = session.image(item_id)
        address = f"data:image/{_MIME[extension]};base64,{base64.b64encode(image).decode()}"
    else:
        # Label Studio reads the file itself: where it says more than its pixels, a copy that does not is named.
        sha256 = session.store.add_image(session.image(item_id)[0], item.extension)
        where = session.store.image_path(sha256, item.extension).relative_to(session.store.root)
        address = f"/data/local-files/?d={where.as_posix()}"
    shown = {field: shown_value(record, field) for field in REVIEWED_FIELDS}
    texts = {f"{field}_shown": "–" if value is None else str(value) for field, value in shown.items()}
    texts["objects_shown"] = f"{len(record.objects)} boxes"
    values = {**shown, "intensity": record.intensity}
    rows = standing(session.log.reviews(item_id=item_id, reviewer=session.reviewer)) if with_reviews else []
    boxes = regions_of(record)
    for row in rows:
        if row.field == "objects" and row.verdict == "mended":
            boxes += [obj for obj in _regions(row.value) if obj not in boxes]
    result = [part for field in REVIEWED_FIELDS for part in _value(record, field, values[field], boxes)]
    task: LabelStudioTask = {
        "data": {"image": address, "item": item.id, "shown": shown, "intensity": record.intensity, "boxes": boxes, **texts},
        "predictions": [{"model_version": f"emo prep: {session.states[item_id]}", "result": result}],
    }
    if rows:
        # A value that was decided replaces the prediction; the rest comes along as Label Studio would submit it.
        decided = [part for row in rows for part in _decision(record, row, boxes)]
        mended_fields = {row.field for row in rows if row.verdict == "mended"}
        rest = [
            part
            for field in REVIEWED_FIELDS
            if field not in mended_fields
            for part in _value(record, field, values[field], boxes)
        ]
        begun, changed = (
            datetime.fromtimestamp(moment).astimezone().isoformat() for moment in (min(row.time for row in rows), rows[-1].time)
        )
        task["annotations"] = [
            {
                "result": [*rest, *decided],
                "created_at": begun,
                "updated_at": changed,
                "completed_by": {"email": session.reviewer},
            }
        ]
    return task


def _regions(value: object) -> list[RegionJSON]:
    """The value of the field `objects`: a review holds it as `mended` let it pass."""
    return cast("list[RegionJSON]", value)


def _value(record: Record, field: str, value: object, boxes: list[RegionJSON]) -> Iterator[LabelStudioPart]:
    if value is None:
        return
    if field == "objects":
        for obj in _regions(value):
            yield _box(record, obj, boxes.index(obj))
    elif field in TEXT_FIELDS:
        yield _part(field, "textarea", {"text": [str(value)]})
    else:
        yield _part(field, "choices", {"choices": [str(value)]})


def _decision(record: Record, row: Review, boxes: list[RegionJSON]) -> Iterator[LabelStudioPart]:
    if row.field == WHOLE_RECORD:
        if row.verdict == "wrong":
            yield _part(WHOLE_RECORD, "choices", {"choices": ["discard"]})
        return
    yield _part(f"{row.field}_verdict", "choices", {"choices": [row.verdict]})
    if row.verdict == "mended":
        yield from _value(record, row.field, row.value, boxes)


def _part(name: str, kind: str, value: PartValue) -> LabelStudioPart:
    return {"id": name, "from_name": name, "to_name": "image", "type": kind, "value": value}


def _box(record: Record, obj: RegionJSON, place: int) -> LabelStudioPart:
    x1, y1, x2, y2 = obj["bbox"]
    width, height = record.width, record.height
    value: PartValue = {
        "x": 100 * x1 / width,
        "y": 100 * y1 / height,
        "width": 100 * (x2 - x1) / width,
        "height": 100 * (y2 - y1) / height,
        "rotation": 0,
        "rectanglelabels": [BOX_LABELS[not obj["primary"]]],
    }
    # The id leads back to the object with its phrase, score and mask.
    return {
        **_part("objects", "rectanglelabels", value),
        "id": f"object-{place}",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": obj["score"],
    }
