"""The metrics of Table 5 (paper section 4.3.1), both modes at once, as torchmetrics over exact totals.

What each row means is in `analysis.table5_rows.TABLE5_ROWS`. A change that may change a value has to raise the version of its definition there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from emo_lightning.core.emotions import INTENSITY_HIGHEST
from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS, Prediction, SchemaError, intensity_level
from emo_lightning.core.replies import REASONS, UNREADABLE_ANSWERS, unreadable_reasons
from emo_lightning.metrics import matching
from emo_lightning.metrics.accumulators import POSITION, UNREADABLE_COLUMN, Accumulator, RowScores, ScoredBatch, ratio
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.boxes import BOX_SCORES, box_scores


class ReferenceCoverage(Accumulator):
    """How many references there are, and how many of them have no prediction."""

    names = ("references", "missing")

    def amounts(self, batch: ScoredBatch) -> Array:
        """As `Accumulator.amounts`."""
        return np.array([(1.0, prediction is None) for prediction in batch.predictions], dtype=np.float64).reshape(-1, 2)

    def rows(self, totals: Array) -> RowScores:  # noqa: ARG002 - no row of the table
        """No row."""
        return {"paper": {}, "strict": {}}

    def counts(self, total: Array) -> dict[str, int]:
        """`references` and `missing_predictions`."""
        return {"references": self._count(total, "references"), "missing_predictions": self._count(total, "missing")}


class UnreadableAnswers(Accumulator):
    """How many answers could not be read, by reason; an image that was asked about twice has two answers."""

    names = REASONS

    def amounts(self, batch: ScoredBatch) -> Array:
        """As `Accumulator.amounts`."""
        out = np.zeros((len(batch.records), len(self.names)))
        for row, prediction in zip(out, batch.predictions, strict=True):
            for reason in unreadable_reasons(prediction.provenance) if prediction else ():
                row[self.names.index(reason)] += 1
        return out

    def rows(self, totals: Array) -> RowScores:  # noqa: ARG002 - no row of the table
        """No row."""
        return {"paper": {}, "strict": {}}

    def counts(self, total: Array) -> dict[str, int]:
        """`unreadable: REASON`, of the reasons that there are."""
        found = {f"{UNREADABLE_ANSWERS}{name}": self._count(total, name) for name in self.names}
        return {key: count for key, count in found.items() if count}


class BoxScores(Accumulator):
    """BBox IoU, BBox Center Dist and F1 of the predicted objects against the regions of the subject."""

    names = (*BOX_SCORES, "predicted", "expected", "images", "unannotated", "degenerate")
    support: ClassVar[Mapping[str, str]] = dict.fromkeys(("bbox_iou", "bbox_center_dist", "f1"), "images")

    def amounts(self, batch: ScoredBatch) -> Array:
        """As `Accumulator.amounts`; images whose reference has no box are counted, not scored."""
        out = np.zeros((len(batch.records), len(self.names)))
        truths = [matching.as_boxes([o.bbox for o in r.primary_objects]) for r in batch.records]
        scored = [i for i, truth in enumerate(truths) if len(truth)]
        said = [matching.as_boxes([o.bbox for o in p.objects] if p else []) for p in (batch.predictions[i] for i in scored)]
        truth = [truths[i] for i in scored]
        out[:, self.names.index("unannotated")] = 1
        counts = [(len(p), len(t), 1, 0, int((~matching.valid(p)).sum())) for p, t in zip(said, truth, strict=True)]
        if scored:
            out[scored] = np.concatenate([box_scores(said, truth), np.array(counts, dtype=np.float64)], axis=1)
        return out

    def rows(self, totals: Array) -> RowScores:
        """`bbox_iou`, `bbox_center_dist` and `f1` in both modes."""
        boxes = self._of(totals, "predicted") + self._of(totals, "expected")
        return {
            "paper": {
                "bbox_iou": self._percent(totals, "iou_paper", "images"),
                "bbox_center_dist": self._percent(totals, "center_paper", "images"),
                "f1": self._percent(totals, "f1_paper", "images"),
            },
            "strict": {
                "bbox_iou": self._percent(totals, "iou_strict", "images"),
                "bbox_center_dist": self._percent(totals, "center_strict", "images"),
                "f1": ratio(200 * self._of(totals, "hits"), boxes),
            },
        }

    def counts(self, total: Array) -> dict[str, int]:
        """As `Accumulator.counts`."""
        return {
            "references_without_box": self._count(total, "unannotated"),
            "degenerate_boxes": self._count(total, "degenerate"),
        }


class EmotionScores(Accumulator):
    """Emotion accuracy: exact string (paper), case-folded name with the parse-failure rate (strict); the confusion matrix."""

    names = ("exact", "folded", "unparsable", "images", "unannotated")
    cells = len(EMOTIONS) * (len(EMOTIONS) + 1)
    support: ClassVar[Mapping[str, str]] = dict.fromkeys(("emotion_acc", "parse_failure"), "images")

    def amounts(self, batch: ScoredBatch) -> Array:
        """As `Accumulator.amounts`."""
        out = np.zeros((len(batch.records), len(self.names) + self.cells))
        for row, prediction, record in zip(out, batch.predictions, batch.records, strict=True):
            if record.emotion is None:
                row[4] = 1
                continue
            said = prediction.emotion if prediction else None
            truth, column = POSITION[record.emotion], POSITION.get((said or "").strip().casefold(), UNREADABLE_COLUMN)
            row[:4] = said == record.emotion.value, column == truth, column == UNREADABLE_COLUMN, 1
            row[len(self.names) + truth * (UNREADABLE_COLUMN + 1) + column] = 1
        return out

    def rows(self, totals: Array) -> RowScores:
        """`emotion_acc` in both modes, `parse_failure` in strict."""
        return {
            "paper": {"emotion_acc": self._percent(totals, "exact", "images")},
            "strict": {
                "emotion_acc": self._percent(totals, "folded", "images"),
                "parse_failure": self._percent(totals, "unparsable", "images"),
            },
        }

    def counts(self, total: Array) -> dict[str, int]:
        """As `Accumulator.counts`."""
        return {
            "references_without_emotion": self._count(total, "unannotated"),
            "unparsable_emotions": self._count(total, "unparsable"),
        }


class IntensityScores(Accumulator):
    """Closeness 1 − |Δ|/10 (paper and strict), three-level accuracy and quadratic-weighted kappa (strict)."""

    names = ("closeness", "images", "levels_right", "levels", "unparsable", "unannotated")
    cells = INTENSITY_HIGHEST * INTENSITY_HIGHEST
    support: ClassVar[Mapping[str, str]] = {
        "intensity_acc": "images",
        "intensity_level_acc": "levels",
        "intensity_kappa": "images",
    }

    def amounts(self, batch: ScoredBatch) -> Array:
        """As `Accumulator.amounts`; a reference may have an intensity, a level, both or none."""
        out = np.zeros((len(batch.records), len(self.names) + self.cells))
        for row, prediction, record in zip(out, batch.predictions, batch.records, strict=True):
            said = prediction.intensity if prediction else None
            said = said if said is not None and math.isfinite(said) else None
            true_level = record.intensity_level or (intensity_level(record.intensity) if record.intensity else None)
            if true_level is None:
                row[5] = 1
                continue
            row[2:4] = _said_level(prediction, said) == true_level, 1
            if record.intensity is None:
                continue
            whole = math.floor(said + 0.5) if said is not None else 0
            on_scale = 1 <= whole <= INTENSITY_HIGHEST
            # Kappa has no cell for "no answer": it counts as the end of the scale farthest from the truth, so silence never pays.
            rating = whole if on_scale else (INTENSITY_HIGHEST if record.intensity <= INTENSITY_HIGHEST // 2 else 1)
            row[0:2] = max(0.0, 1 - abs(said - record.intensity) / INTENSITY_HIGHEST) if said is not None else 0.0, 1
            row[4] = not on_scale
            row[len(self.names) + (record.intensity - 1) * INTENSITY_HIGHEST + rating - 1] = 1
        return out

    def rows(self, totals: Array) -> RowScores:
        """`intensity_acc` in both modes; `intensity_level_acc` and `intensity_kappa` in strict."""
        closeness = self._percent(totals, "closeness", "images")
        confusion = totals[:, len(self.names) :].reshape(-1, INTENSITY_HIGHEST, INTENSITY_HIGHEST)
        return {
            "paper": {"intensity_acc": closeness},
            "strict": {
                "intensity_acc": closeness,
                "intensity_level_acc": self._percent(totals, "levels_right", "levels"),
                "intensity_kappa": 100 * quadratic_kappas(confusion),
            },
        }

    def counts(self, total: Array) -> dict[str, int]:
        """As `Accumulator.counts`."""
        return {
            "references_without_intensity": self._count(total, "unannotated"),
            "unparsable_intensities": self._count(total, "unparsable"),
        }


class ClipScores(Accumulator):
    """(cos + 1)/2 of description against description, of triplet against triplet, and of description against the image."""

    names = ("text", "texts", "image", "images", "unannotated", "triplet", "triplets")
    support: ClassVar[Mapping[str, str]] = {"clip_score": "texts", "clip_triplet": "triplets", "clip_image_text": "images"}

    def update(
        self,
        batch: ScoredBatch,
        text_scores: Array | None = None,
        image_scores: Array | None = None,
        triplet_scores: Array | None = None,
    ) -> None:
        """Add scores already computed (0 for a prediction without description, or without a whole triplet).

        Args:
            batch: as `Accumulator.update`.
            text_scores: (images,), NaN where the reference has no description; None adds nothing.
            image_scores: (images,), NaN where the image cannot be read; None where there are no images.
            triplet_scores: (images,), NaN where the reference has no whole triplet; None adds nothing.
        """
        out = np.zeros((len(batch.records), len(self.names)))
        if triplet_scores is not None:
            out[:, 5], out[:, 6] = np.nan_to_num(triplet_scores), ~np.isnan(triplet_scores)
        if text_scores is not None:
            described = ~np.isnan(text_scores)
            out[:, 0], out[:, 1], out[:, 4] = np.nan_to_num(text_scores), described, ~described
        if image_scores is not None:
            out[:, 2], out[:, 3] = np.nan_to_num(image_scores), ~np.isnan(image_scores)
        self._add(out, batch)

    def rows(self, totals: Array) -> RowScores:
        """`clip_score` and `clip_triplet` in both modes, `clip_image_text` in strict."""
        texts = {
            "clip_score": self._percent(totals, "text", "texts"),
            "clip_triplet": self._percent(totals, "triplet", "triplets"),
        }
        return {"paper": texts, "strict": {**texts, "clip_image_text": self._percent(totals, "image", "images")}}

    def counts(self, total: Array) -> dict[str, int]:
        """As `Accumulator.counts`."""
        seen = self._count(total, "texts") + self._count(total, "unannotated")
        return {"references_without_description": self._count(total, "unannotated")} if seen else {}


def quadratic_kappas(confusions: Array) -> Array:
    """Cohen's kappa with quadratic weights, −1 to 1.

    Args:
        confusions: shape (N, K, K), counts, rows truth, columns prediction.

    Returns:
        Shape (N,), NaN where it is undefined (nothing counted, or both sides constant and equal).
    """
    total = confusions.sum(axis=(1, 2))
    grid = np.arange(confusions.shape[-1])
    weights = (grid[:, None] - grid[None, :]) ** 2.0
    # Σ w·(row totals ⊗ column totals) without building the outer products.
    chance = np.einsum("nr,rc,nc->n", confusions.sum(axis=2), weights, confusions.sum(axis=1))
    observed = np.einsum("nrc,rc->n", confusions, weights) * total
    return 1 - ratio(observed, chance)


def _said_level(prediction: Prediction | None, said: float | None) -> str | None:
    if said is not None:
        try:
            return intensity_level(said)
        except SchemaError:
            return None  # off the scale: counted in `unparsable` where the reference has an intensity, wrong in any case
    level = (prediction.intensity_level or "").strip().casefold() if prediction else ""
    return level if level in INTENSITY_LEVELS else None
