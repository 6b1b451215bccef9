"""Valence, arousal and dominance in the training of the DES head: what has a target, how near validation comes, and what is kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics import ConcordanceCorrCoef, Metric, MetricCollection, PearsonCorrCoef

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import DIMENSIONS
from emo_lightning.data.supervision import LabelCounts
from emo_lightning.metrics.emotion_space import Anchors
from emo_lightning.models.affect import AffectHead
from emo_lightning.models.des_losses import LossInputs

_METRICS: Mapping[str, type[Metric]] = {"plcc": PearsonCorrCoef, "ccc": ConcordanceCorrCoef}


class AffectMetrics(nn.Module):
    """PLCC and CCC of each dimension against people's ratings, exact over ranks.

    Args:
        measured: whether there is anything to measure.
    """

    def __init__(self, measured: bool) -> None:
        super().__init__()
        self.found = MetricCollection(
            {
                f"{dimension}_{name}": metric()
                for dimension in (DIMENSIONS if measured else ())
                for name, metric in _METRICS.items()
            },
            compute_groups=False,
        )

    def update(self, said: Tensor, inputs: LossInputs) -> None:
        """Take in (B, 3) values beside what people said; those that follow from anchors are no measurement."""
        if inputs.affect is None:
            return
        for n, dimension in enumerate(DIMENSIONS):
            known = inputs.counted & ~inputs.affect[:, n].isnan()
            if bool(known.any()):
                for name in _METRICS:
                    self.found[f"{dimension}_{name}"].update(said[known, n].float(), inputs.affect[known, n])

    def log(self, log: Callable[[str, Tensor], object]) -> None:
        """Hand over `val/DIMENSION_METRIC` of the dimensions that were rated, and begin anew."""
        for name, metric in self.found.items():
            # On all ranks, whoever has ratings of this dimension; where none has, there is no value, and torchmetrics would warn of it.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                value = metric.compute()
            if bool(value.isfinite()):
                log(f"val/{name}", value)
            metric.reset()


def dimensions_with_targets(counts: LabelCounts, anchors: Anchors | None) -> list[str]:
    """Dimensions that some image of a training set has a rating of, or a point in by the anchors.

    Args:
        counts: of the training set.
        anchors: of images that nobody rated.

    Raises:
        InputError: there is none.
    """
    points = None if anchors is None else anchors.array(len(DIMENSIONS))
    found = [
        name
        for n, name in enumerate(DIMENSIONS)
        if counts.ratings[name]
        or (points is not None and counts.distribution and not bool(torch.tensor(points[:, n]).isnan().any()))
    ]
    if not found:
        msg = (
            "model.va_weight: no training image has a rating of valence, arousal or dominance"
            f"{'' if anchors is None else ', and none has an emotion, by which model.anchors would place it'}; "
            "leave va_weight 0, or set model.anchors"
        )
        raise InputError(msg)
    return found


def sentence_of(name: str, counts: LabelCounts, *, learnt: bool) -> str | None:
    """What must be said of a set in which some images have ratings and no emotion; None where all is plain.

    Args:
        name: of the set.
        counts: of it.
        learnt: whether ratings are learnt from (`model.va_weight`).
    """
    if not counts.rated_alone:
        return None
    use = (
        "they count in valence, arousal and dominance, and in no accuracy"
        if learnt
        else "they count nowhere: model.va_weight is 0"
    )
    none = f"; {counts.bare:,} have neither" if counts.bare else ""
    return f"{name}: of {counts.images:,} images {counts.rated_alone:,} have ratings and no emotion, {use}{none}"


def save_affect_head(
    state: Mapping[str, Tensor], head: Path, des_dim: int, anchors: Anchors | None, dimensions: list[str]
) -> Path:
    """Write the trained layer beside the head that it was trained with.

    Args:
        state: of the task; the layer's tensors begin with `va.`.
        head: folder of the DES head, which is written.
        des_dim: width of the embedding.
        anchors: that were used, if any.
        dimensions: with targets.
    """
    affect = AffectHead(des_dim, None if anchors is None else anchors.source, dimensions)
    affect.linear.load_state_dict({k.removeprefix("va."): v for k, v in state.items() if k.startswith("va.")})
    return affect.save_beside(head)
