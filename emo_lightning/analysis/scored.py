"""Predicted distributions over the eight beside what is true: the input of calibration, conformal sets and distribution distances."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.references import warn_of_other_images
from emo_lightning.core.emotions import NUM_EMOTIONS
from emo_lightning.core.records import NO_EMOTION, Emotion, Prediction, Reference, SchemaError
from emo_lightning.metrics.arrays import Array, Classes

SUM_TOLERANCE = 1e-2
"""How far predicted probabilities may be from a sum of 1 before they are no distribution; within it they are scaled."""


def probabilities(prediction: Prediction) -> Array | None:
    """The predicted distribution (8,) in the order of `EMOTIONS`, scaled to sum 1; None where there is none that can be used.

    Unusable is: null, a negative or not finite value, a sum away from 1, two values of one emotion. Emotions that are not named have probability 0.

    Raises:
        SchemaError: a key that is none of the eight.
    """
    if not prediction.emotion_scores:
        return None
    vector = np.zeros(NUM_EMOTIONS)
    named = set()
    for name, value in prediction.emotion_scores.items():
        try:
            place = Emotion.parse(name).position
            vector[place] = value if place not in named else np.nan
            named.add(place)
        except SchemaError as error:
            msg = f"id {prediction.id!r}, key 'emotion_scores': {error}"
            raise SchemaError(msg) from None
    # In this order, so that NaN passes none.
    if not (vector.min() >= 0 and vector.max() <= 1 + SUM_TOLERANCE and abs(vector.sum() - 1) <= SUM_TOLERANCE):
        return None
    scaled: Array = vector / vector.sum()
    return scaled


@dataclass
class Scored:
    """Images with a usable predicted distribution."""

    ids: list[str]
    """N record ids."""
    predicted: Array
    """(N, 8), rows sum to 1."""
    truth: Classes
    """(N,), `NO_EMOTION` without a category."""
    annotated: Array
    """(N, 8) annotated distribution, NaN rows where the record has no `emotion_scores`."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Reason -> how many references were left out."""

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def match(cls, predictions: Mapping[str, Prediction], records: Iterable[Reference], where: str) -> Scored:
        """Pair predictions with records by id; predictions of other images are not looked at.

        Args:
            predictions: by id.
            records: the references.
            where: file of the predictions, for messages.

        Raises:
            SchemaError: an emotion's name that is none of the eight.
        """
        records = list(records)
        warn_of_other_images(predictions, records, where)
        skipped = {"without a prediction": 0, "without usable emotion_scores": 0}
        ids, rows, truth, annotated = [], [], [], []
        for record in records:
            prediction = predictions.get(record.id)
            if prediction is None:
                skipped["without a prediction"] += 1
                continue
            try:
                vector = probabilities(prediction)
            except SchemaError as error:
                msg = f"{where}: {error}"
                raise SchemaError(msg) from None
            if vector is None:
                skipped["without usable emotion_scores"] += 1
                continue
            ids.append(record.id)
            rows.append(vector)
            truth.append(NO_EMOTION if record.emotion is None else record.emotion.position)
            known = record.emotion_distribution() if record.emotion_scores is not None else None
            annotated.append([np.nan] * NUM_EMOTIONS if known is None else known)
        shape = (len(ids), NUM_EMOTIONS)
        return cls(
            ids,
            np.array(rows, dtype=float).reshape(shape),
            np.array(truth, dtype=int),
            np.array(annotated, dtype=float).reshape(shape),
            {k: v for k, v in skipped.items() if v},
        )

    def take(self, rows: NDArray[np.intp]) -> Scored:
        """Some rows, without the counts of what was skipped."""
        return Scored([self.ids[i] for i in rows], self.predicted[rows], self.truth[rows], self.annotated[rows])

    def labelled(self) -> Scored:
        """The rows with a category."""
        return self.take(np.flatnonzero(self.truth != NO_EMOTION))
