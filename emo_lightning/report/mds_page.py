"""Figure 6 to explore: one HTML file without a server and without a request, every point with its image, its truth and what was said."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup
from PIL.Image import Image

from emo_lightning.analysis.mds import MdsMap
from emo_lightning.analysis.references import References
from emo_lightning.core.colours import EMOTION_COLOURS
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_bytes
from emo_lightning.core.images import encoded
from emo_lightning.core.records import EMOTIONS, Prediction, Reference
from emo_lightning.report.html import environment

THUMBNAIL_SIDES = (128, 96, 72, 56, 40)
"""Longest side of the pictures in pixels: the first with which the page stays below its limit."""

_QUALITY = 72

_LONG = 120
"""Characters of what a model says that a card has room for."""


def write_mds_page(
    out: Path,
    maps: Mapping[str, MdsMap],
    references: References | None,
    megabytes: float = 6.0,
    title: str = "Map of emotions",
    said: Mapping[str, Mapping[str, Prediction]] | None = None,
) -> dict[str, int]:
    """Write the page.

    Args:
        out: the .html file.
        maps: arm -> layout; all of the same images, in the same order.
        references: records and, from tars, images; None leaves id and emotion alone.
        megabytes: that the pictures may take in all, as base64; they are made smaller, and at last left out.
        title: of the page.
        said: arm -> id -> what its model answers; shown beside the truth.

    Returns:
        `points`, `with_record`, `with_image`, `thumbnail_side` (0: none), `bytes`.

    Raises:
        InputError: `megabytes` is negative.
        ValueError: the arms show different images.
    """
    if not 0 <= megabytes < math.inf:
        msg = f"megabytes={megabytes}; expected at least 0"
        raise InputError(msg)
    first = next(iter(maps.values()))
    for arm, layout in maps.items():
        if layout.ids != first.ids or layout.labels != first.labels:
            msg = f"arm {arm!r} shows other images than {next(iter(maps))!r}; a page shows the same in all"
            raise ValueError(msg)
    rows = {} if references is None else {record.id: i for i, record in enumerate(references.records)}
    points = []
    for name, label in zip(first.ids, first.labels, strict=True):
        record = references.records[rows[name]] if references is not None and name in rows else None
        points.append({"id": name, "emotion": label, **_described(record)})
    side, pictures = _thumbnails(references, [rows.get(name) for name in first.ids], megabytes)
    for point, picture in zip(points, pictures, strict=True):
        if picture:
            point["image"] = picture
    labels = set(first.labels)
    names = [str(e) for e in EMOTIONS if e in labels] + sorted(labels - set(EMOTIONS))
    data = {
        "emotions": [{"name": name, "colour": EMOTION_COLOURS.get(name, "#888888")} for name in names],
        "points": points,
        "arms": [
            {"name": arm, "xy": _unit(layout), "near": layout.neighbours.tolist(), **_answers(first.ids, (said or {}).get(arm))}
            for arm, layout in maps.items()
        ],
    }
    # No value can end the script element: the one character that could is written as JSON's escape.
    script = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    page = (
        environment()
        .get_template("mds.html.j2")
        .render(
            title=title,
            arms=[(arm, layout.summary()) for arm, layout in maps.items()],
            data=Markup(script),
            with_images=sum(bool(p) for p in pictures),
            points=len(points),
        )
        .encode()
    )
    write_bytes(Path(out), page)
    return {
        "points": len(points),
        "with_record": sum(name in rows for name in first.ids),
        "with_image": sum(bool(p) for p in pictures),
        "thumbnail_side": side,
        "bytes": len(page),
    }


def _described(record: Reference | None) -> dict[str, object]:
    if record is None:
        return {}
    found = {
        "triplet": None if record.triplet is None else list(record.triplet.model_dump().values()),
        "intensity": record.intensity,
        "level": record.intensity_level,
        "confidence": None if record.confidence is None else round(record.confidence, 2),
        "split": record.split,
    }
    return {key: value for key, value in found.items() if value is not None}


def _answers(ids: Sequence[str], said: Mapping[str, Prediction] | None) -> dict[str, object]:
    """`said`: (emotion, intensity, triplet in one line) per image, null where there is no answer; nothing without predictions."""
    if said is None:
        return {}
    rows: list[list[object] | None] = []
    for name in ids:
        one = said.get(name)
        if one is None:
            rows.append(None)
            continue
        triplet = [" ".join(part.split()) for part in (one.background, one.attribute, one.subject) if part]
        intensity = one.intensity if one.intensity is not None and math.isfinite(one.intensity) else None
        rows.append([(one.emotion or "").strip().casefold()[:_LONG], intensity, " · ".join(triplet)[:_LONG]])
    return {"said": rows}


def _unit(layout: MdsMap) -> list[list[float]]:
    """(N, 2) within the unit square around its middle, one scale for both axes, y downwards as on a screen."""
    low, high = layout.coords.min(axis=0), layout.coords.max(axis=0)
    reach = float((high - low).max()) or 1.0
    placed = (layout.coords - (low + high) / 2) / reach + 0.5
    return [[round(float(x), 4), round(1 - float(y), 4)] for x, y in placed]


def _thumbnails(references: References | None, rows: Sequence[int | None], megabytes: float) -> tuple[int, list[str]]:
    """(side, a data URI or "" per row)."""
    none = [""] * len(rows)
    if references is None or not references.has_images or all(row is None for row in rows):
        return 0, none
    largest, limit = THUMBNAIL_SIDES[0], megabytes * 1e6
    sources: list[Image | None] = [None if row is None else references.picture(row) for row in rows]
    for large in sources:
        if large is not None:
            large.thumbnail((largest, largest))
    for side in THUMBNAIL_SIDES:
        coded = []
        for picture in sources:
            if picture is None:
                coded.append("")
                continue
            small = picture.copy()
            small.thumbnail((side, side))
            data = encoded(small, "JPEG", quality=_QUALITY, optimize=True)
            coded.append("data:image/jpeg;base64," + base64.b64encode(data).decode())
        if sum(map(len, coded)) <= limit:
            return side, coded
    return 0, none
