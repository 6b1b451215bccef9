"""The parts of an annotation as Label Studio and other programs write them: texts, choices and boxes, their types checked."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime

from data_prep.review.decisions import REVIEWED_FIELDS, WHOLE_RECORD, ReviewError
from data_prep.review.label_studio import BOX_LABELS
from data_prep.review.messages import RegionJSON
from emo_lightning.core.foreign import list_of, number_of, object_of, text_of
from emo_lightning.core.records import Record

_SAME = 0.05
"""Pixels by which a box may come back moved and still be the same: percentages are rounded on the way."""


def parts_by_field(record: Record, annotation: Mapping[str, object]) -> tuple[dict[str, list[dict[str, object]]], int]:
    """The parts of an annotation by the field that they are of."""
    known = {WHOLE_RECORD, *REVIEWED_FIELDS, *(f"{field}_verdict" for field in REVIEWED_FIELDS)}
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


def text_or_choice(record: Record, parts: Mapping[str, list[dict[str, object]]], name: str, key: str) -> str | None:
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


def whole_intensity(record: Record, value: object) -> int:
    """An intensity as a choice has it, 1–10 checked later."""
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,2}", value):
        msg = f"{record.id}: intensity: found {str(value)[:60]!r}; allowed: 1–10"
        raise ReviewError(msg)
    return int(value)


def boxes_of(record: Record, parts: list[dict[str, object]], boxes: list[RegionJSON], subject: str) -> list[RegionJSON]:
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


def moment_of(annotation: Mapping[str, object]) -> float:
    """When it was made, or changed last; now, where it does not say so."""
    for key in ("updated_at", "created_at"):
        if (moment := _moment(annotation.get(key))) is not None:
            return moment
    return time.time()


def begun_of(annotation: Mapping[str, object], moment: float) -> float:
    """When it was made first, to the second, as a time loses digits where it is written; `moment` where it does not say so."""
    begun = _moment(annotation.get("created_at"))
    return moment if begun is None else float(int(min(begun, moment)))


def _moment(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
