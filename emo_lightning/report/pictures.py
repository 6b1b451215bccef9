"""Pictures as parts of a page that asks nothing of the network."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from markupsafe import Markup

from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import integer_of, list_of, number_of, object_of, read_capped, text_of
from emo_lightning.core.image_metadata import without_metadata
from emo_lightning.core.images import MAX_IMAGE_BYTES, image_size, media_type
from emo_lightning.core.tables.provenance import Provenance
from emo_lightning.report.page import PageFigure
from emo_lightning.report.page_file import FIGURE_TYPES
from emo_lightning.report.svg import overlay_svg

FRAME_LIMIT = 8_000_000
"""Bytes of an .html figure that are taken into the page."""

_INK = b"<style>svg{color:#1f2328}@media (prefers-color-scheme:dark){svg{color:#e6e4df}}</style>"
"""`currentColor` of a drawing; an image does not know the colours of its page."""

WIDE = 400
"""Points up to which a drawing shares a line with others."""


class ShownAnswer(TypedDict):
    """What a model says of an image, or what is true of it."""

    description: str | None
    background: str | None
    attribute: str | None
    subject: str | None
    emotion: str | None
    intensity: float | None
    boxes: list[list[float]]
    """(x1, y1, x2, y2), pixels of the original image."""


class AnsweredImage(TypedDict):
    """An image by name, with the truth and every arm's answer."""

    id: str
    size: list[int]
    """Width and height of the original image."""
    split: str | None
    truth: ShownAnswer
    predictions: dict[str, ShownAnswer | None]
    """Arm -> its answer, None where there is none."""


class ReportPicture(AnsweredImage):
    """The same with the image itself."""

    image: bytes
    """JPEG, perhaps made smaller."""
    svg: Markup
    """The image under its boxes."""


@dataclass
class Figure:
    """A drawing with its caption and source."""

    title: str
    drawing: Markup
    source: Provenance
    note: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    wide: bool = False


def embedded(file: Path, title: str) -> Markup:
    """A picture as part of the page: data of an image, or a frame of its own for an .html file.

    Raises:
        InputError: an .html file larger than `FRAME_LIMIT`.
        FileNotFoundError: not there.
    """
    data = read_capped(file, MAX_IMAGE_BYTES)
    kind = FIGURE_TYPES[file.suffix.lower()]
    if kind == "text/html":
        if len(data) > FRAME_LIMIT:
            msg = f"{len(data)} bytes; the page takes in at most {FRAME_LIMIT}. Open the file itself"
            raise InputError(msg)
        # Its scripts run in a frame of its own, without access to the page, and the page's policy keeps it from the network.
        return Markup('<iframe sandbox="allow-scripts" loading="lazy" title="{}" srcdoc="{}"></iframe>').format(
            title, data.decode(errors="replace")
        )
    if kind == "image/svg+xml":
        # As the data of an image nothing in it runs or loads; its ink is the page's, light or dark, by a style of its own.
        data = re.sub(rb"<svg[^>]*>", lambda found: found[0] + _INK, data, count=1)
    else:
        image_size(data, file)
        # As for pictures in panels: the page shows pixels, and says nothing of where and by whom they were taken.
        data = without_metadata(data)
        kind = media_type(data)
    return Markup('<img class="drawing" alt="{}" src="data:{};base64,{}">').format(title, kind, base64.b64encode(data).decode())


def is_wide(file: Path) -> bool:
    """Whether a picture wants the page's whole width: a frame, a drawing above `WIDE` points, an image above twice as many pixels."""
    match file.suffix.lower():
        case ".html":
            return True
        case ".svg":
            box = re.search(
                r'viewBox="[-\d.]+ [-\d.]+ (\d+(?:\.\d+)?) ', file.read_text(encoding="utf-8", errors="replace")[:5000]
            )
            return box is not None and float(box[1]) > WIDE
        case _:
            return image_size(read_capped(file, MAX_IMAGE_BYTES), file)[0] > 2 * WIDE


def drawn_figure(file: Path, figure: PageFigure, source: Provenance) -> Figure:
    """A figure of a `page.json` as part of the page; errors as `embedded`."""
    return Figure(figure.title, embedded(file, figure.title), source, figure.note, wide=is_wide(file))


def with_boxes(item: AnsweredImage, image: bytes, arms: Sequence[str]) -> ReportPicture:
    """An image with its answers, under the true and the predicted boxes.

    Args:
        item: the truth and the answers.
        image: JPEG.
        arms: whose boxes are drawn, in the order of their colours.
    """
    name = text_of(item["id"], "key 'id'")
    width, height = (integer_of(side, f"{name}: key 'size'", low=1, high=1 << 20) for side in list_of(item["size"], name))
    truth = _checked(item["truth"], name)
    said = {arm: None if item["predictions"][arm] is None else _checked(item["predictions"][arm], name) for arm in arms}
    boxes = {arm: answer["boxes"] if answer else [] for arm, answer in said.items()}
    image_size(image, f"{name}: key 'image'")
    image = without_metadata(image)
    svg = overlay_svg(image, media_type(image), (width, height), truth["boxes"], boxes)
    return ReportPicture(
        id=name, size=[width, height], split=item["split"], truth=truth, predictions=said, image=image, svg=Markup(svg)
    )


def _checked(answer: object, where: str) -> ShownAnswer:
    """An answer of a `panel.json`, whose values are of the types that the page draws."""
    found = object_of(answer, where)
    texts = {
        key: None if found.get(key) is None else text_of(found[key], f"{where}: key {key!r}")
        for key in ("description", "background", "attribute", "subject", "emotion")
    }
    intensity = None if found.get("intensity") is None else number_of(found["intensity"], f"{where}: key 'intensity'")
    boxes = [
        [number_of(side, f"{where}: key 'boxes'") for side in list_of(box, f"{where}: key 'boxes'")]
        for box in list_of(found.get("boxes", []), f"{where}: key 'boxes'")
    ]
    return ShownAnswer(
        description=texts["description"],
        background=texts["background"],
        attribute=texts["attribute"],
        subject=texts["subject"],
        emotion=texts["emotion"],
        intensity=intensity,
        boxes=[box for box in boxes if len(box) == 4],
    )
