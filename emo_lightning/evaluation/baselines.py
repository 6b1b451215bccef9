"""Answers that do not look at the image: what a figure of Table 5 is worth is its distance from these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from emo_lightning.schema import EMOTIONS, PredictedObject, Prediction, Record

MEAN_BOX = "constant, mean box"
MEDIAN_BOX = "constant, median box"


class ConstantAnswer:
    """The same emotion, intensity, description and relative box for every image.

    Args:
        records: where the constants come from: majority emotion, median intensity, most frequent description (ties: the
            first in the schema's or the file's order), and the mean or median of the subject's boxes, each coordinate
            divided by its image's width or height.
        center: "mean" or "median", of the boxes.
    """

    def __init__(self, records: Sequence[Record], center: str) -> None:
        if center not in ("mean", "median"):
            raise ValueError(f"center={center!r}; allowed: 'mean', 'median'")
        self.emotion = _most_common(sorted((r.emotion for r in records if r.emotion), key=EMOTIONS.index))
        self.description = _most_common(r.description for r in records if r.description)
        intensities = [r.intensity for r in records if r.intensity]
        self.intensity = int(np.floor(np.median(intensities) + 0.5)) if intensities else None
        boxes = [np.divide(o.bbox, (r.width, r.height) * 2) for r in records for o in r.primary_objects]
        self.box = (np.mean(boxes, axis=0) if center == "mean" else np.median(boxes, axis=0)) if boxes else None

    def __call__(self, record: Record) -> Prediction:
        """The answer for one image: only its size is looked at, to scale the box."""
        objects = []
        if self.box is not None:
            x1, y1, x2, y2 = (self.box * ((record.width, record.height) * 2)).tolist()
            objects = [PredictedObject(bbox=(x1, y1, x2, y2))]
        return Prediction(
            id=record.id, description=self.description, emotion=self.emotion, intensity=self.intensity, objects=objects
        )

    def describe(self) -> dict[str, object]:
        """The constants themselves, for the page."""
        box = None if self.box is None else [round(float(v), 4) for v in self.box]
        return {"emotion": self.emotion, "intensity": self.intensity, "description": self.description, "relative_box": box}


def _most_common(values: Iterable[str]) -> str | None:
    # Counter keeps first-seen order among equals.
    common = Counter(values).most_common(1)
    return str(common[0][0]) if common else None
