"""Mean and co-deviations of vectors that come in batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from emo_lightning.core.errors import InputError


class Moments(NamedTuple):
    """Of `size` vectors of width D, in float64 on the CPU."""

    size: int
    mean: Tensor
    """(D,)"""
    deviations: Tensor
    """(D, D): sum of the outer products of the deviations from the mean; over `size` it is the covariance."""


def moments(batches: Iterable[Tensor], width: int, what: str) -> Moments:
    """Chan's parallel update: one pass, the same result for any cut into batches.

    In float64 on the CPU, as not every accelerator has float64.

    Args:
        batches: (n, D) each, together every vector once.
        width: D.
        what: one of the vectors is, for messages.

    Raises:
        InputError: there is no vector, or a value is not finite.
    """
    count = 0
    mean = torch.zeros(width, dtype=torch.float64)
    deviations = torch.zeros(width, width, dtype=torch.float64)
    for batch in batches:
        if not len(batch):
            continue
        vectors = batch.detach().cpu().double()
        total = count + len(vectors)
        delta = vectors.mean(0) - mean
        centred = vectors - vectors.mean(0)
        deviations += centred.T @ centred + torch.outer(delta, delta) * (count * len(vectors) / total)
        mean += delta * (len(vectors) / total)
        count = total
    if not count:
        msg = f"no {what} to take statistics from"
        raise InputError(msg)
    if not bool(mean.isfinite().all()):
        msg = f"a {what} is not finite"
        raise InputError(msg)
    return Moments(count, mean, deviations)
