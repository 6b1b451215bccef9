"""A loss, a gradient or a weight that is no finite number ends the training: NaN passes every comparison, and is saved as a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from emo_lightning.core.errors import UserError

_SHOWN = 8
"""Keys of samples that a message names."""


class NotFiniteError(UserError, ArithmeticError):
    """A training has left the finite numbers; the message names the step and the samples, and how to go on."""

    @classmethod
    def at(cls, what: str, step: int, keys: Sequence[str]) -> NotFiniteError:
        """The error.

        Args:
            what: was found.
            step: optimiser steps that were done before.
            keys: ids of the samples of the step, if they are known.
        """
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        samples = f" Samples of this step: {', '.join(keys[:_SHOWN])}{more}." if keys else ""
        return cls(
            f"step {step}: {what}.{samples} The last checkpoint before it is kept. "
            "Look at the labels of these samples, take a lower rate (model.optim.lr), or clip gradients (trainer.gradient_clip_val)"
        )


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of all tensors is finite; of a sharded tensor this rank's part. Costs one wait for the device."""
    flags = [torch.isfinite(_local(tensor)).all() for tensor in tensors if tensor.is_floating_point()]
    return not flags or bool(torch.stack([flag.to(flags[0].device) for flag in flags]).all())


def not_finite(named: Iterable[tuple[str, object]]) -> list[str]:
    """Names of the tensors that hold a number which is not finite."""
    found = {name: tensor for name, tensor in named if isinstance(tensor, Tensor)}
    return [] if all_finite(found.values()) else [name for name, tensor in found.items() if not all_finite([tensor])]


def _local(tensor: Tensor) -> Tensor:
    from torch.distributed.tensor import DTensor

    whole = tensor.detach()
    return whole.to_local() if isinstance(whole, DTensor) else whole
