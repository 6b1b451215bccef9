"""Accuracy, and macro-averaged precision, recall and F1 (paper Table 6), by torchmetrics.

A class that occurs neither in the truth nor among the predictions is left out of the macro average.
"""

from __future__ import annotations

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassPrecision, MulticlassRecall
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from emo_lightning.core.records import EMOTIONS


def classification_metrics(num_classes: int = len(EMOTIONS)) -> MetricCollection:
    """`accuracy` (over samples), `precision`, `recall` and `f1` (macro), 0–1, to be updated batch by batch on every rank.

    Args:
        num_classes: the eight emotions, unless told otherwise.
    """
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(num_classes, average="micro"),
            "precision": MulticlassPrecision(num_classes, average="macro"),
            "recall": MulticlassRecall(num_classes, average="macro"),
            "f1": MulticlassF1Score(num_classes, average="macro"),
        }
    )


def classification_scores(predicted: Tensor, truth: Tensor, num_classes: int = len(EMOTIONS)) -> dict[str, float]:
    """What `classification_metrics` gives of all samples at once, in percent.

    Args:
        predicted: (N,) class indices, N > 0.
        truth: (N,) likewise.
        num_classes: the eight emotions, unless told otherwise.

    Raises:
        ValueError: shapes that differ, or no sample.
    """
    if truth.shape != predicted.shape or truth.ndim != 1 or not len(truth):
        msg = f"truth has shape {tuple(truth.shape)}, predicted {tuple(predicted.shape)}; expected the same (N,), N > 0"
        raise ValueError(msg)
    return {
        "accuracy": 100 * multiclass_accuracy(predicted, truth, num_classes, average="micro").item(),
        "precision": 100 * multiclass_precision(predicted, truth, num_classes, average="macro").item(),
        "recall": 100 * multiclass_recall(predicted, truth, num_classes, average="macro").item(),
        "f1": 100 * multiclass_f1_score(predicted, truth, num_classes, average="macro").item(),
    }
