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
from emo_lightning.core.foreign import read_capped
from emo_lightning.core.images import MAX_IMAGE_BYTES, image_size
from emo_lightning.report.page import PageFigure
from emo_lightning.report.page_file import FIGURE_TYPES
from emo_lightning.report.provenance import Provenance
from emo_lightning.report.svg import overlay_svg

FRAME_LIMIT = 8_000_000
"""Bytes of an .html figure that are taken into the page."""

WIDE = 400
"""Points up to which a drawing shares a line with others."""


class Answer(TypedDict):
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
    truth: Answer
    predictions: dict[str, Answer | None]
    """Arm -> its answer, None where there is none."""


class Picture(AnsweredImage):
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
    """A picture as part of the page: an SVG in the page's own ink where it holds nothing active, else data of an image.

    Raises:
        InputError: an .html file larger than `FRAME_LIMIT`.
        FileNotFoundError: not there.
    """
    data = file.read_bytes()
    kind = FIGURE_TYPES[file.suffix.lower()]
    if kind == "text/html":
        if len(data) > FRAME_LIMIT:
            msg = f"{len(data)} bytes; the page takes in at most {FRAME_LIMIT}. Open the file itself"
            raise InputError(msg)
        # Its scripts run in a frame of its own, without access to the page.
        return Markup('<iframe sandbox="allow-scripts" loading="lazy" title="{}" srcdoc="{}"></iframe>').format(
            title, data.decode()
        )
    if kind == "image/svg+xml":
        text = data.decode()
        text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text[max(text.find("<svg"), 0) :], flags=re.DOTALL)
        text = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", text).replace("xlink:href", "href")
        if text.startswith("<svg") and not re.search(
            r"<script|<foreignObject|\son\w+\s*=|//|javascript:|@import", text, re.IGNORECASE
        ):
            return Markup('<div class="drawing" role="img" aria-label="{}">{}</div>').format(title, Markup(text))
    return Markup('<img class="drawing" alt="{}" src="data:{};base64,{}">').format(title, kind, base64.b64encode(data).decode())


def is_wide(file: Path) -> bool:
    """Whether a picture wants the page's whole width: a frame, a drawing above `WIDE` points, an image above twice as many pixels."""
    match file.suffix.lower():
        case ".html":
            return True
        case ".svg":
            box = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ', file.read_text(encoding="utf-8")[:5000])
            return box is not None and float(box[1]) > WIDE
        case _:
            return image_size(read_capped(file, MAX_IMAGE_BYTES), file)[0] > 2 * WIDE


def drawn_figure(file: Path, figure: PageFigure, source: Provenance) -> Figure:
    """A figure of a `page.json` as part of the page; errors as `embedded`."""
    return Figure(figure.title, embedded(file, figure.title), source, figure.note, wide=is_wide(file))


def with_boxes(item: AnsweredImage, image: bytes, arms: Sequence[str]) -> Picture:
    """An image with its answers, under the true and the predicted boxes.

    Args:
        item: the truth and the answers.
        image: JPEG.
        arms: whose boxes are drawn, in the order of their colours.
    """
    boxes = {arm: said.get("boxes", []) if (said := item["predictions"][arm]) else [] for arm in arms}
    svg = overlay_svg(image, "image/jpeg", item["size"], item["truth"]["boxes"], boxes)
    return Picture(
        id=item["id"],
        size=item["size"],
        split=item["split"],
        truth=item["truth"],
        predictions=item["predictions"],
        image=image,
        svg=Markup(svg),
    )
