"""A few test images with everything that was predicted of them beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np

from emo_lightning.analysis.references import References
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_bytes, write_json
from emo_lightning.core.images import encoded
from emo_lightning.core.records import Prediction, Reference
from emo_lightning.report.pictures import AnsweredImage, ShownAnswer

LONG_SIDE = 480
"""Pictures are stored at most this large, pixels."""


class PanelItem(AnsweredImage):
    """An image of a panel."""

    image: str
    """Its file, relative to the stage's folder."""


class Panel(TypedDict):
    """What `panel.json` holds."""

    arms: list[str]
    seed: int
    of: int
    """Images that the panel's were drawn from."""
    items: list[PanelItem]


def choose(records: Sequence[Reference], count: int, seed: int) -> list[int]:
    """Positions of `count` records, drawn without replacement, emotion after emotion in turn; a pure function of its input."""
    order = np.random.default_rng(seed).permutation(len(records)).tolist()
    turns: dict[str, int] = {}
    ranked = []
    for place, i in enumerate(order):
        emotion = records[i].emotion or ""
        turns[emotion] = turns.get(emotion, 0) + 1
        ranked.append((turns[emotion], place, i))
    return [i for _, _, i in sorted(ranked)[:count]]


def write_panel(
    out: Path, arms: Mapping[str, Mapping[str, Prediction]], references: References, count: int, seed: int
) -> Panel:
    """Write `panel.json` and `panel/N.jpg` below `out`, with everything said `print/N.png` and `panel.pdf` (a page each); returns `panel.json`.

    Raises:
        SchemaError: the references hold no images.
        InputError: count < 1.
    """
    from emo_lightning.report.paper_figures import draw_comparison, pdf_pages

    if count < 1:
        msg = f"count={count}; expected at least 1"
        raise InputError(msg)
    items: list[PanelItem] = []
    with pdf_pages(out / "panel.pdf") as pages:
        for i in choose(references.records, len(references), seed):
            if (n := len(items)) == count:
                break
            record, picture = references.records[i], references.picture(i)
            if picture is None:
                continue
            size = list(picture.size)
            picture.thumbnail((LONG_SIDE, LONG_SIDE))
            name = f"panel/{n:02d}.jpg"
            write_bytes(out / name, encoded(picture, "JPEG", quality=88))
            item = PanelItem(
                id=record.id,
                image=name,
                size=size,
                split=record.split or "",
                truth=answer_of(record),
                predictions=answers_to(record, arms),
            )
            items.append(item)
            draw_comparison(picture, item, list(arms), out / "print" / f"{n:02d}", pages)
    panel = Panel(arms=list(arms), seed=seed, of=len(references), items=items)
    write_json(out / "panel.json", panel)
    return panel


def answers_to(record: Reference, arms: Mapping[str, Mapping[str, Prediction]]) -> dict[str, ShownAnswer | None]:
    """Every arm's answer, None where there is none."""
    said = {arm: predictions.get(record.id) for arm, predictions in arms.items()}
    return {arm: answer_of(one) if one else None for arm, one in said.items()}


def answer_of(item: Reference | Prediction) -> ShownAnswer:
    """The fields of a record or a prediction that a reader looks at; numbers that JSON does not have are left out."""
    objects = item.primary_objects if isinstance(item, Reference) else item.objects
    boxes = [list(o.bbox) for o in objects]
    return {
        "description": item.description,
        "background": item.background,
        "attribute": item.attribute,
        "subject": item.subject,
        "emotion": item.emotion,
        # JSON has no NaN; a model may have said one.
        "intensity": item.intensity if item.intensity is not None and np.isfinite(item.intensity) else None,
        "boxes": [box for box in boxes if np.isfinite(box).all()],
    }
