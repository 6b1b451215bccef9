"""Objectives that train the DES head. All return sums, so that a caller can average over several batches and ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

INTENSITY_LOWEST, INTENSITY_HIGHEST = 1.0, 10.0


def soft_cross_entropy(logits: Tensor, target: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy against distributions.

    Args:
        logits: (batch, classes).
        target: (batch, classes), rows sum to 1; a row with NaN has no label.
        counted: (batch,) bool; False rows are left out.

    Returns:
        The sum over counted rows with a label, and which rows these are, (batch,) bool.
    """
    labelled = counted & ~target.isnan().any(-1)
    # where, not a product: 0 * NaN is NaN.
    target = torch.where(labelled[:, None], target.to(logits.dtype), 0)
    return F.cross_entropy(logits, target, reduction="sum"), labelled


def intensity_squared_error(predicted: Tensor, intensity: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of intensity, mapped from 1–10 to 0–1.

    Args:
        predicted: (batch,), on the 0–1 scale.
        intensity: (batch,), 1–10, NaN without a label.
        counted: (batch,) bool; False rows are left out.

    Returns:
        The sum over counted rows with a label, and which rows these are, (batch,) bool.
    """
    labelled = counted & ~intensity.isnan()
    target = (intensity.to(predicted.dtype) - INTENSITY_LOWEST) / (INTENSITY_HIGHEST - INTENSITY_LOWEST)
    error = torch.where(labelled, predicted - torch.where(labelled, target, 0), 0)
    return error.square().sum(), labelled


def supervised_contrastive(embeddings: Tensor, labels: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss, form L_out of Khosla et al. 2020 (arXiv:2004.11362, eq. 2).

    Args:
        embeddings: (batch, dim), normalised here.
        labels: (batch,) class indices, -1 without a label.
        counted: (batch,) bool; False rows are neither anchors nor compared with.
        temperature: > 0.

    Returns:
        The sum over anchors: rows with another row of their class in the batch.
    """
    present = counted & (labels >= 0)
    unit = F.normalize(embeddings, dim=-1)
    others = present[None, :] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = others & (labels[:, None] == labels[None, :])
    # The diagonal stands in for rows without any other, so that no softmax is empty; such rows are no anchors.
    allowed = others | (~others.any(-1, keepdim=True) & torch.eye(len(labels), dtype=torch.bool, device=labels.device))
    log_probability = (unit @ unit.T / temperature).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    count = positives.sum(-1)
    anchors = present & (count > 0)
    mean = torch.where(positives, log_probability, 0).sum(-1) / count.clamp(min=1)
    return -torch.where(anchors, mean, 0).sum()
