"""Sums and rows over all ranks; with one process they return what they were given."""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum over ranks, without gradient; the argument stays as it is."""
    total = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def objects_of_all_ranks(value: T) -> list[T]:
    """Every rank's value, in rank order; small things, as they are pickled."""
    if world_size() == 1:
        return [value]
    found: list[T] = [value] * world_size()
    dist.all_gather_object(found, value)
    return found


def rows_of_all_ranks(rows: Tensor) -> Tensor:
    """Concatenate (n_r, ...) of every rank r in rank order; the n_r may differ.

    This rank's rows keep their gradient, the others' have none: a loss that every rank computes over all rows and scales by
    the world size gets its exact gradient when DDP averages the ranks', and no collective runs in backward.
    """
    if world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    longest = max(int(count) for count in counts)
    padded = rows.detach().new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    pieces = [piece[: int(count)] for piece, count in zip(gathered, counts, strict=True)]
    pieces[dist.get_rank()] = rows
    return torch.cat(pieces)
