"""A row in which each image's prompt stands once, and its replies after it: what a policy is asked what it makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from emo_lightning.models.backbone import Backbone
from emo_lightning.models.policy_loss import token_log_probs


class ReplyRow(NamedTuple):
    """R replies in a row, S tokens in all."""

    row: dict[str, object]
    """Packed, with `branches`: the prompt but for its last token is shared, and each reply begins with that token."""
    before: Tensor
    """(S,) int64: the place in the row from which each token is predicted."""
    tokens: Tensor
    """(S,) int64."""
    lengths: Tensor
    """(R,) int64, tokens of each reply."""


def with_replies(row: Mapping[str, object], replies: Sequence[Tensor]) -> ReplyRow:
    """A row of prompts with replies to each.

    Args:
        row: of the collator, packed and without answers: one question about each of B images.
        replies: (A,) ids each; as many to every image, image by image, all on the row's device.

    Raises:
        ValueError: they cannot be shared out among the images, or the row holds several questions about an image.
    """
    ids, positions, image_at = (cast(Tensor, row[name]) for name in ("input_ids", "positions", "image_at"))
    lengths, device = cast("list[int]", row["lengths"]), ids.device
    each, rest = divmod(len(replies), len(lengths))
    if rest or not each or "branches" in row:
        msg = f"{len(replies)} replies to {len(lengths)} questions, of one an image; expected as many to each"
        raise ValueError(msg)
    counts = [len(reply) for reply in replies]
    pieces: list[list[int]] = []
    tokens: list[Tensor] = []
    places: list[Tensor] = []
    before: list[Tensor] = []
    shifts: list[int] = []
    begin = moved = 0
    for image, (prompt, own) in enumerate(zip(ids[0].split(lengths), positions.split(lengths, -1), strict=True)):
        shared = len(prompt) - 1
        shifts.append(moved)
        tokens.append(prompt[:-1])
        places.append(own[..., :-1])
        begin += shared
        branches = [shared]
        for reply in replies[image * each : (image + 1) * each]:
            tokens += [prompt[-1:], reply]
            # Text has one position, whatever its axes.
            places.append(own[..., -1:] + torch.arange(len(reply) + 1, device=device))
            before.append(torch.arange(begin, begin + len(reply)))
            branches.append(len(reply) + 1)
            begin += len(reply) + 1
        pieces.append(branches)
        moved += sum(branches) - len(prompt)
    ends = torch.tensor(lengths).cumsum(0).to(device)
    grown = {
        **row,
        "input_ids": torch.cat(tokens)[None],
        "positions": torch.cat(places, -1),
        "image_at": image_at + torch.tensor(shifts).to(device)[torch.bucketize(image_at, ends, right=True)],
        "lengths": [sum(one) for one in pieces],
        "branches": pieces,
        # The last layer computes nothing else: of what is shared no state is read.
        "answer_ends": [count for shared, *own in pieces for count in (0, *own)],
    }
    return ReplyRow(grown, torch.cat(before).to(device), torch.cat(list(replies)), torch.tensor(counts).to(device))


def reply_log_probs(backbone: Backbone, asked: ReplyRow, banned: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """What the policy makes of each token of the replies: log-probabilities and entropies, (S,) float32 each.

    Args:
        backbone: of the policy.
        asked: by `with_replies`.
        banned: (b,) ids that are never drawn.
        temperature: at which they were.
    """
    hidden = backbone.last_hidden_state(asked.row, ends=True)
    return token_log_probs(backbone.lm_head, hidden[0].index_select(0, asked.before), asked.tokens, banned, temperature)
