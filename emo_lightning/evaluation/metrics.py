"""The states behind Table 5 as torchmetrics: only sums and counts, so the reduction over ranks is exact.

Every metric returns both modes at once: `{"paper": {row: value}, "strict": {row: value}, "counts": {name: int}}`, values x100,
`None` where nothing could be scored. What each row means is in `table5.ROWS`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from emo_lightning.evaluation import matching
from emo_lightning.schema import EMOTIONS, INTENSITY_LEVELS, Prediction, Record, SchemaError, intensity_level

Modes = dict[str, dict[str, Any]]

IOU_THRESHOLD = 0.5
"""Strict F1: a matched pair is a hit from this IoU on."""

SCALE = 10
"""Intensity runs over 1–10."""


class Sums(Metric):
    """A metric whose states are named float64 sums; `None` as a prediction means "no reply"."""

    full_state_update = False
    names: tuple[str, ...] = ()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.names:
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _add(self, **amounts: float | Tensor) -> None:
        for name, amount in amounts.items():
            setattr(self, name, getattr(self, name) + amount)

    def _sum(self, name: str) -> float:
        return float(getattr(self, name))

    def _count(self, name: str) -> int:
        return round(self._sum(name))

    def _percent(self, part: str, whole: str) -> float | None:
        total = self._sum(whole)
        return 100 * self._sum(part) / total if total else None


class PerImage(Sums):
    """Sums over images, each scored alone."""

    def score(self, prediction: Prediction | None, record: Record) -> dict[str, float | Tensor]:
        """What one image adds to each state."""
        raise NotImplementedError

    def update(self, predictions: Sequence[Prediction | None], records: Sequence[Record]) -> None:
        """Add a batch; None is a reference without a reply."""
        amounts: dict[str, float | Tensor] = {}
        # Summed as numbers first: a tensor operation per image and state would cost more than the scores.
        for prediction, record in zip(predictions, records, strict=True):
            for name, amount in self.score(prediction, record).items():
                amounts[name] = amounts.get(name, 0.0) + amount
        self._add(**amounts)


class Coverage(PerImage):
    """How many references there are, and how many of them have no prediction."""

    names = ("references", "missing")

    def score(self, prediction: Prediction | None, record: Record) -> dict[str, float | Tensor]:
        """As `PerImage.score`."""
        return {"references": 1, "missing": prediction is None}

    def compute(self) -> Modes:
        """`references` and `missing_predictions` in the counts."""
        counts = {"references": self._count("references"), "missing_predictions": self._count("missing")}
        return {"paper": {}, "strict": {}, "counts": counts}


class BoxScores(PerImage):
    """BBox IoU, BBox Center Dist and F1 of the predicted objects against the regions of the subject."""

    names = (
        "iou_paper", "center_paper", "f1_paper", "iou_strict", "center_strict",
        "hits", "predicted", "expected", "images", "unannotated", "degenerate",
    )  # fmt: skip

    def score(self, prediction: Prediction | None, record: Record) -> dict[str, float | Tensor]:
        """As `PerImage.score`; images whose reference has no box are counted, not scored."""
        truth = matching.as_boxes([o.bbox for o in record.primary_objects])
        if not len(truth):
            return {"unannotated": 1}
        boxes = matching.as_boxes([o.bbox for o in prediction.objects] if prediction else [])
        iou, center, dice = (f(boxes, truth) for f in (matching.iou_matrix, matching.center_matrix, matching.dice_matrix))
        by_iou, by_center = matching.greedy(iou), matching.greedy(center)
        best_iou, best_center = matching.hungarian(iou), matching.hungarian(center)
        slots = max(len(boxes), len(truth))
        return {
            "iou_paper": _mean(iou, by_iou),
            "center_paper": _mean(center, by_center),
            "f1_paper": _mean(dice, by_iou),
            "iou_strict": _total(iou, best_iou) / slots,
            "center_strict": _total(center, best_center) / slots,
            "hits": sum(iou[pair] >= IOU_THRESHOLD for pair in best_iou),
            "predicted": len(boxes),
            "expected": len(truth),
            "images": 1,
            "degenerate": int((~matching.valid(boxes)).sum()),
        }

    def compute(self) -> Modes:
        """`bbox_iou`, `bbox_center_dist` and `f1` in both modes."""
        boxes = self._sum("predicted") + self._sum("expected")
        return {
            "paper": {
                "bbox_iou": self._percent("iou_paper", "images"),
                "bbox_center_dist": self._percent("center_paper", "images"),
                "f1": self._percent("f1_paper", "images"),
            },
            "strict": {
                "bbox_iou": self._percent("iou_strict", "images"),
                "bbox_center_dist": self._percent("center_strict", "images"),
                "f1": 100 * 2 * self._sum("hits") / boxes if boxes else None,
            },
            "counts": {"references_without_box": self._count("unannotated"), "degenerate_boxes": self._count("degenerate")},
        }


class EmotionScores(PerImage):
    """Emotion accuracy: exact string (paper), case-folded name with the parse-failure rate (strict)."""

    names = ("exact", "folded", "unparsable", "images", "unannotated")

    def score(self, prediction: Prediction | None, record: Record) -> dict[str, float | Tensor]:
        """As `PerImage.score`."""
        if record.emotion is None:
            return {"unannotated": 1}
        said = prediction.emotion if prediction else None
        name = said.strip().casefold() if said is not None else None
        return {
            "exact": said == record.emotion.value,
            "folded": name == record.emotion.value,
            "unparsable": name not in {e.value for e in EMOTIONS},
            "images": 1,
        }

    def compute(self) -> Modes:
        """`emotion_acc` in both modes, `parse_failure` in strict."""
        return {
            "paper": {"emotion_acc": self._percent("exact", "images")},
            "strict": {
                "emotion_acc": self._percent("folded", "images"),
                "parse_failure": self._percent("unparsable", "images"),
            },
            "counts": {
                "references_without_emotion": self._count("unannotated"),
                "unparsable_emotions": self._count("unparsable"),
            },
        }


class IntensityScores(PerImage):
    """Closeness 1 − |Δ|/10 (paper and strict), three-level accuracy and quadratic-weighted kappa (strict)."""

    names = ("closeness", "images", "levels_right", "levels", "unparsable", "unannotated")
    confusion: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("confusion", torch.zeros(SCALE, SCALE, dtype=torch.float64), dist_reduce_fx="sum")

    def score(self, prediction: Prediction | None, record: Record) -> dict[str, float | Tensor]:
        """As `PerImage.score`; a reference may have an intensity, a level, both or none."""
        said = prediction.intensity if prediction else None
        said = said if said is not None and math.isfinite(said) else None
        true_level = record.intensity_level or (intensity_level(record.intensity) if record.intensity else None)
        if true_level is None:
            return {"unannotated": 1}
        level: dict[str, float | Tensor] = {"levels": 1, "levels_right": _said_level(prediction, said) == true_level}
        if record.intensity is None:
            return level
        whole = math.floor(said + 0.5) if said is not None else 0
        on_scale = 1 <= whole <= SCALE
        # Kappa has no cell for "no answer": it counts as the end of the scale farthest from the truth, so silence never pays.
        rating = whole if on_scale else (SCALE if record.intensity <= SCALE // 2 else 1)
        confusion = torch.zeros_like(self.confusion)
        confusion[record.intensity - 1, rating - 1] = 1
        closeness = max(0.0, 1 - abs(said - record.intensity) / SCALE) if said is not None else 0.0
        return {**level, "closeness": closeness, "images": 1, "unparsable": not on_scale, "confusion": confusion}

    def compute(self) -> Modes:
        """`intensity_acc` in both modes; `intensity_level_acc` and `intensity_kappa` in strict."""
        closeness = self._percent("closeness", "images")
        kappa = quadratic_kappa(self.confusion.cpu().numpy())
        return {
            "paper": {"intensity_acc": closeness},
            "strict": {
                "intensity_acc": closeness,
                "intensity_level_acc": self._percent("levels_right", "levels"),
                "intensity_kappa": None if kappa is None else 100 * kappa,
            },
            "counts": {
                "references_without_intensity": self._count("unannotated"),
                "unparsable_intensities": self._count("unparsable"),
            },
        }


class ClipScores(Sums):
    """(cos + 1)/2 of description against description, and of description against the image."""

    names = ("text", "texts", "image", "images", "unannotated")

    def update(self, text_scores: Sequence[float], image_scores: Sequence[float], unannotated: int = 0) -> None:
        """Add scores already computed (0 for a prediction without description).

        Args:
            text_scores: one per reference with a description.
            image_scores: one per reference with an image; empty where there are no images.
            unannotated: references without a description.
        """
        self._add(
            text=sum(text_scores), texts=len(text_scores), image=sum(image_scores), images=len(image_scores),
            unannotated=unannotated,
        )  # fmt: skip

    def compute(self) -> Modes:
        """`clip_score` in both modes, `clip_image_text` in strict."""
        text, seen = self._percent("text", "texts"), self._count("texts") + self._count("unannotated")
        return {
            "paper": {"clip_score": text},
            "strict": {"clip_score": text, "clip_image_text": self._percent("image", "images")},
            "counts": {"references_without_description": self._count("unannotated")} if seen else {},
        }


def quadratic_kappa(confusion: np.ndarray) -> float | None:
    """Cohen's kappa with quadratic weights.

    Args:
        confusion: shape (K, K), counts, rows truth, columns prediction.

    Returns:
        −1 to 1, or None where it is undefined (nothing counted, or both sides constant and equal).
    """
    total = confusion.sum()
    if not total:
        return None
    grid = np.arange(len(confusion))
    weights = (grid[:, None] - grid[None, :]) ** 2.0
    chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / total
    expected = (weights * chance).sum()
    return float(1 - (weights * confusion).sum() / expected) if expected else None


def _said_level(prediction: Prediction | None, said: float | None) -> str | None:
    if said is not None:
        try:
            return intensity_level(said)
        except SchemaError:
            return None  # off the scale: counted in `unparsable` where the reference has an intensity, wrong in any case
    level = (prediction.intensity_level or "").strip().casefold() if prediction else ""
    return level if level in INTENSITY_LEVELS else None


def _total(scores: matching.Array, pairs: Sequence[matching.Pair]) -> float:
    return float(sum(scores[pair] for pair in pairs))


def _mean(scores: matching.Array, pairs: Sequence[matching.Pair]) -> float:
    return _total(scores, pairs) / len(pairs) if pairs else 0.0
