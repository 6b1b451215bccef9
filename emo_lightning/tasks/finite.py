"""A loss, a gradient or a weight that is no finite number ends the training: NaN passes every comparison, and is saved as a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Self

from torch import Tensor
from torch.nn.utils import get_total_norm

from emo_lightning.core.errors import UserError
from emo_lightning.tasks.collectives import objects_of_all_ranks

_SHOWN = 8
"""Keys of samples that a message names."""


class Fault(NamedTuple):
    """What a rank has found that is no finite number."""

    what: str
    keys: Sequence[str]
    """Ids of the samples that it comes from, if they are known."""
    of: str = "this step"
    """Where those samples were seen."""


class NotFiniteError(UserError, ArithmeticError):
    """A training has left the finite numbers; the message names the step and the samples, and how to go on."""

    @classmethod
    def at(cls, fault: Fault, step: int) -> NotFiniteError:
        """The error.

        Args:
            fault: that was found.
            step: optimiser steps that were done before.
        """
        more = f" and {len(fault.keys) - _SHOWN} more" if len(fault.keys) > _SHOWN else ""
        samples = f" Samples of {fault.of}: {', '.join(fault.keys[:_SHOWN])}{more}." if fault.keys else ""
        return cls(
            f"step {step}: {fault.what}.{samples} The last checkpoint before it is kept. "
            "Look at the labels of these samples, take a lower rate (model.optim.lr), or clip gradients (trainer.gradient_clip_val)"
        )


class SeenMicroBatch(NamedTuple):
    """What is kept of a micro-batch until its optimiser step, in case that it has to be named."""

    loss: Tensor
    """Sum, without gradient."""
    ids: Sequence[str]
    filler: Tensor | None

    @classmethod
    def of(cls, batch: object, loss: Tensor) -> Self:
        """Of a batch that may have the keys `key` and `filler`; nothing waits for the device."""
        found = batch if isinstance(batch, Mapping) else {}
        return cls(loss.detach(), found.get("key", []), found.get("filler"))

    def samples(self) -> list[str]:
        """Ids of the samples that are not fillers."""
        fillers = [False] * len(self.ids) if self.filler is None else self.filler.tolist()
        return [key for key, filler in zip(self.ids, fillers, strict=True) if not filler]


def first_of_ranks(fault: Fault | None) -> Fault | None:
    """The first rank's fault, the same on every rank, which all have to call this; one in a loss goes before those of gradients.

    A gradient is summed over the ranks, so all have a fault there when one has lost its loss.
    """
    found = [one for one in objects_of_all_ranks(fault) if one is not None]
    return min(found, key=lambda one: "gradients" in one.what, default=None)


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of all tensors is finite; of a sharded tensor this rank's part. Costs one wait for the device where all are."""
    found = [_local(tensor) for tensor in tensors if tensor.is_floating_point()]
    found = [tensor for tensor in found if tensor.numel()]
    # A sum of squares is NaN or infinite where one number is, in one pass over each tensor, without a copy of it. The largest of all is
    # so, too, but takes ten times as long on a CPU; it has to say whether the sum alone is too large.
    return bool(get_total_norm(found).isfinite()) or bool(get_total_norm(found, norm_type=math.inf).isfinite())


def not_finite(named: Iterable[tuple[str, object]]) -> list[str]:
    """Names of the tensors that hold a number which is not finite."""
    found = {name: tensor for name, tensor in named if isinstance(tensor, Tensor)}
    return [] if all_finite(found.values()) else [name for name, tensor in found.items() if not all_finite([tensor])]


def _local(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    whole = tensor.detach()
    return whole.to_local() if isinstance(whole, DTensor) else whole
