"""What a model names of the triplet: background, attribute, subject, and all three; exactly, or in similar words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from emo_lightning.core.records import TRIPLET_PARTS, Prediction, Reference
from emo_lightning.metrics.accumulators import Accumulator, RowScores, ScoredBatch
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.spelling import WHOLE_TRIPLET, casefolded, similar


class TripletScores(Accumulator):
    """How often each part of the triplet, and the whole of it, is named rightly."""

    names = (
        *(f"{part} {what}" for part in (*TRIPLET_PARTS, WHOLE_TRIPLET) for what in ("exact", "similar", "images")),
        "unannotated",
    )
    support: ClassVar[Mapping[str, str]] = {
        row: f"{part} images" for part in (*TRIPLET_PARTS, WHOLE_TRIPLET) for row in (part, f"{part}_similar")
    }

    def amounts(self, batch: ScoredBatch) -> Array:
        """As `Accumulator.amounts`; a part that the reference does not have is not scored, and a triplet only where it is whole."""
        out = np.zeros((len(batch.records), len(self.names)))
        for row, prediction, record in zip(out, batch.predictions, batch.records, strict=True):
            exact, alike, known = (np.array(part) for part in zip(*_compared(prediction, record), strict=True))
            whole = known.all()
            scores = [*zip(exact, alike, known, strict=True), (exact.all() and whole, alike.all() and whole, whole)]
            row[: 3 * len(scores)] = np.ravel(scores)
            row[-1] = not known.any()
        return out

    def rows(self, totals: Array) -> RowScores:
        """`background`, `attribute`, `subject`, `triplet` and the same with `_similar`, in strict mode."""
        found = {
            f"{part}{ending}": self._percent(totals, f"{part} {what}", f"{part} images")
            for ending, what in (("", "exact"), ("_similar", "similar"))
            for part in (*TRIPLET_PARTS, WHOLE_TRIPLET)
        }
        return {"paper": {}, "strict": found}

    def counts(self, total: Array) -> dict[str, int]:
        """As `Accumulator.counts`."""
        return {"references_without_triplet": self._count(total, "unannotated")}


def _compared(prediction: Prediction | None, record: Reference) -> list[tuple[bool, bool, bool]]:
    """(exact, similar, whether the reference has it) of each part."""
    found = []
    for part in TRIPLET_PARTS:
        true = casefolded(getattr(record, part))
        said = casefolded(getattr(prediction, part)) if prediction and true else ""
        found.append((said == true != "", bool(said) and similar(said, true), bool(true)))
    return found
