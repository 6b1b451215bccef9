"""A frozen backbone reads its own greedy answer: the other source of features beside the prompt (an ablation)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emo_lightning.models.backbone import Backbone
from emo_lightning.models.rows import with_text


@torch.no_grad()
def generated_states(
    backbone: Backbone, batch: Mapping[str, object], num_layers: int, max_new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Hidden states at the tokens of the model's own answer, which has seen image and question; no annotation takes part.

    The answer is read again whole, as a prompt is, so that the states do not depend on how generation cached them.

    Args:
        backbone: in eval mode.
        batch: without answers, packed or padded on the left (`Collator(answers=False)`).
        num_layers: last layers that are kept.
        max_new_tokens: of the answer; one that is longer is cut there.

    Returns:
        (num_layers, B, A, H) and which of the A tokens are of the answer, (B, A) bool: up to and with its end mark, so at least one.
    """
    answer = backbone.answer_tokens(batch, max_new_tokens)
    is_end = torch.isin(answer, torch.tensor(backbone.end_token_ids, device=answer.device))
    # What follows the first end mark is padding.
    mask = (is_end.cumsum(1) - is_end.long()) == 0
    if "lengths" in batch:
        lengths = mask.sum(1).tolist()
        row = with_text(batch, [ids[:length] for ids, length in zip(answer, lengths, strict=True)])
        states = backbone.hidden_states(row, num_layers)[:, 0].transpose(0, 1)
        whole = [before + after for before, after in zip(cast("list[int]", batch["lengths"]), lengths, strict=True)]
        answers = [part[-length:] for part, length in zip(states.split(whole), lengths, strict=True)]
        # (B, A, L, H) -> (L, B, A, H)
        return pad_sequence(answers, batch_first=True).permute(2, 0, 1, 3), mask[:, : max(lengths)]
    inputs = backbone.family.model_inputs(batch)
    extended = backbone.family.extended(inputs, answer, mask)
    return backbone.hidden_states(extended, num_layers)[:, :, inputs["input_ids"].shape[1] :], mask
