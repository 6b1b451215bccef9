"""Losses that train the DES head. All give sums, so that a caller can average over several batches and ranks.

To add one, write a function from `LossInputs` to its sum and enter it in `DES_LOSSES`; `model.losses: {NAME: WEIGHT}` of the stage
kinds `des` and `des_online` then switches it on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from emo_lightning.core.emotions import INTENSITY_HIGHEST, INTENSITY_LOWEST


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
    return functional.cross_entropy(logits, target, reduction="sum"), labelled


def intensity_squared_error(predicted: Tensor, intensity: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Squared error of intensity, mapped from 1–10 (paper section 3.1.2) to 0–1.

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
    unit = functional.normalize(embeddings, dim=-1)
    others = present[None, :] & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = others & (labels[:, None] == labels[None, :])
    # The diagonal stands in for rows without any other, so that no softmax is empty; such rows are no anchors.
    allowed = others | (~others.any(-1, keepdim=True) & torch.eye(len(labels), dtype=torch.bool, device=labels.device))
    log_probability = (unit @ unit.T / temperature).masked_fill(~allowed, -torch.inf).log_softmax(-1)
    count = positives.sum(-1)
    anchors = present & (count > 0)
    mean = torch.where(positives, log_probability, 0).sum(-1) / count.clamp(min=1)
    return -torch.where(anchors, mean, 0).sum()


@dataclass(frozen=True)
class LossInputs:
    """What a loss may look at: the B images of one micro-batch."""

    des: Tensor
    """(B, des_dim), with gradient."""
    readout: Tensor | None
    """(B, width), with gradient: the loss's own linear layer on the DES; None where it asks for none (`DESLoss.readout`)."""
    target: Tensor
    """(B, 8) distribution over `EMOTIONS`; rows of NaN without a label."""
    emotion: Tensor
    """(B,) class index, `NO_EMOTION` without one."""
    intensity: Tensor
    """(B,) 1–10, NaN without one."""
    counted: Tensor
    """(B,) bool; a False row is a repeated image and counts nowhere."""
    temperature: float
    """Of losses that compare images (`model.contrastive_temperature`)."""
    affect: Tensor | None = None
    """(B, 3) valence, arousal, dominance from -1 to 1 as people rated them, NaN where they did not; None where no image has one."""
    anchors: Tensor | None = None
    """(8, 3) where each emotion lies in these, NaN in a dimension that is not known (`model.anchors`)."""


LossFunction = Callable[[LossInputs], tuple[Tensor, Tensor | None]]
"""Gives the sum of the loss over images, and (B,) bool, which of them have a label for it. None in place of the latter adds no image
to those that the sum is divided by."""


@dataclass(frozen=True)
class DESLoss:
    """One entry of `DES_LOSSES`."""

    compute: LossFunction
    """The loss itself."""
    readout: int = 0
    """Width of a linear layer on the DES that is trained with the loss and thrown away after; 0 needs none."""
    compares_images: bool = False
    """Each image is compared with the others: the loss sees the images of all ranks, and is left out of `val/loss`, as it depends on
    how batches are cut."""


def intensity_loss(inputs: LossInputs) -> tuple[Tensor, Tensor | None]:
    """`intensity_squared_error` of the readout."""
    if inputs.readout is None:
        msg = "the intensity loss needs a readout"
        raise ValueError(msg)
    return intensity_squared_error(inputs.readout.squeeze(-1), inputs.intensity, inputs.counted)


def affect_targets(inputs: LossInputs) -> Tensor:
    """(B, 3) of valence, arousal and dominance: people's ratings, else what follows from the anchors; NaN where neither is known.

    What follows from the anchors is their mean, weighed by the image's distribution over the eight (arXiv:2605.26262).
    """
    rated = (
        inputs.des.new_full((len(inputs.des), 3), torch.nan) if inputs.affect is None else inputs.affect.to(inputs.des.dtype)
    )
    if inputs.anchors is None:
        return rated
    return torch.where(rated.isnan(), inputs.target.to(rated.dtype) @ inputs.anchors.to(rated.dtype), rated)


def va_loss(inputs: LossInputs) -> tuple[Tensor, Tensor | None]:
    """Squared error of valence, arousal and dominance from -1 to 1, the mean over the dimensions of an image that are known."""
    if inputs.readout is None:
        msg = "the loss of valence and arousal needs a readout"
        raise ValueError(msg)
    target = affect_targets(inputs)
    known = inputs.counted[:, None] & ~target.isnan()
    error = torch.where(known, inputs.readout - torch.where(known, target, 0), 0)
    return (error.square().sum(-1) / known.sum(-1).clamp(min=1)).sum(), known.any(-1)


def contrastive_loss(inputs: LossInputs) -> tuple[Tensor, Tensor | None]:
    """`supervised_contrastive` of the embeddings."""
    return supervised_contrastive(inputs.des, inputs.emotion, inputs.counted, inputs.temperature), None


DES_LOSSES: dict[str, DESLoss] = {
    "intensity": DESLoss(intensity_loss, readout=1),
    "contrastive": DESLoss(contrastive_loss, compares_images=True),
    "va": DESLoss(va_loss, readout=3),
}
"""Losses beside the cross-entropy, by name; they are added in this order."""
