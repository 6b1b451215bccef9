"""Samples that stand one after another in one row (`Collator(packed=True)`), and the same samples padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emo_lightning.models.families import Family, Processor


def with_text(row: Mapping[str, object], texts: Sequence[Tensor]) -> dict[str, object]:
    """A row in which each sample goes on with more text; nothing here waits for the device.

    Args:
        row: packed, of B samples that end with text.
        texts: B times the ids of the tokens to append, (N,) each.
    """
    ids, positions, image_at = (cast(Tensor, row[name]) for name in ("input_ids", "positions", "image_at"))
    lengths, more = cast("list[int]", row["lengths"]), [len(text) for text in texts]
    whole = [length + added for length, added in zip(lengths, more, strict=True)]
    # Text has one position, whatever its axes.
    after = [
        part[..., -1:] + torch.arange(1, added + 1, device=part.device)
        for part, added in zip(positions.split(lengths, -1), more, strict=True)
    ]
    ends = torch.tensor(list(accumulate(lengths))).to(ids.device, non_blocking=True)
    shifts = torch.tensor([0, *accumulate(more)][:-1]).to(ids.device, non_blocking=True)
    return {
        **row,
        "input_ids": torch.cat(list(chain.from_iterable(zip(ids[0].split(lengths), texts, strict=True))))[None],
        "positions": torch.cat(list(chain.from_iterable(zip(positions.split(lengths, -1), after, strict=True))), -1),
        "image_at": image_at + shifts[torch.bucketize(image_at, ends, right=True)],
        "lengths": whole,
    }


def last_of_each(row: Mapping[str, object], device: torch.device) -> Tensor:
    """(B,) places in the row where its samples end."""
    ends = torch.tensor(list(accumulate(cast("list[int]", row["lengths"])))) - 1
    return ends.to(device, non_blocking=True)


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


def padded_inputs(row: Mapping[str, object], family: Family, processor: Processor) -> dict[str, Tensor]:
    """The model's inputs for the samples of a row, padded on the left, as generation takes them."""
    ids = cast(Tensor, row["input_ids"])[0].split(cast("list[int]", row["lengths"]))
    whole = pad_sequence(list(ids), batch_first=True, padding_value=processor.tokenizer.pad_token_id, padding_side="left")
    mask = pad_sequence([torch.ones_like(part) for part in ids], batch_first=True, padding_side="left")
    positions = family.position_inputs(whole, family.image_token_id(processor))
    return family.model_inputs({**row, "input_ids": whole, "attention_mask": mask, **positions})
