"""Samples that stand one after another in one row (`Collator(packed=True)`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def pieces_of(row: Mapping[str, object]) -> list[list[int]]:
    """Tokens of each piece of a row, an image a list: one piece, or what its questions share and then each of them."""
    return cast("list[list[int]]", row.get("branches", [[length] for length in cast("list[int]", row["lengths"])]))


def questions_of(row: Mapping[str, object]) -> list[int | None]:
    """Of each piece of a row: which of the questions about its image it is; None where several share it."""
    return [
        number - (len(pieces) > 1) if number or len(pieces) == 1 else None
        for pieces in pieces_of(row)
        for number in range(len(pieces))
    ]


def with_text(row: Mapping[str, object], texts: Sequence[Tensor]) -> dict[str, object]:
    """A row in which each piece goes on with more text; nothing here waits for the device.

    Args:
        row: packed; its pieces end with text, but for those that questions share.
        texts: of each piece, the ids of the tokens to append, (N,).
    """
    ids, positions, image_at = (cast(Tensor, row[name]) for name in ("input_ids", "positions", "image_at"))
    images = pieces_of(row)
    lengths, more = list(chain.from_iterable(images)), [len(text) for text in texts]
    # Text has one position, whatever its axes.
    after = [
        part[..., -1:] + torch.arange(1, added + 1, device=part.device)
        for part, added in zip(positions.split(lengths, -1), more, strict=True)
    ]
    ends = torch.tensor(list(accumulate(lengths))).to(ids.device, non_blocking=True)
    shifts = torch.tensor([0, *accumulate(more)][:-1]).to(ids.device, non_blocking=True)
    added = iter(more)
    grown = [[length + next(added) for length in pieces] for pieces in images]
    return {
        **row,
        "input_ids": torch.cat(list(chain.from_iterable(zip(ids[0].split(lengths), texts, strict=True))))[None],
        "positions": torch.cat(list(chain.from_iterable(zip(positions.split(lengths, -1), after, strict=True))), -1),
        "image_at": image_at + shifts[torch.bucketize(image_at, ends, right=True)],
        "lengths": [sum(pieces) for pieces in grown],
        **({"branches": grown} if "branches" in row else {}),
    }


def states_apart(states: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The states of each sample, padded on the right.

    Args:
        states: (L, 1, T, H) of a row, L being layers.
        lengths: of its B samples.

    Returns:
        (L, B, longest, H), and which of them are of tokens, (B, longest) bool.
    """
    parts = [part.transpose(0, 1) for part in states[:, 0].split(list(lengths), 1)]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return pad_sequence(parts, batch_first=True).permute(2, 0, 1, 3), mask.to(states.device, non_blocking=True)
