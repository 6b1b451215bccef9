"""A frozen backbone reads its own greedy answer: the other source of features beside the prompt (an ablation)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from emo_lightning.models.backbone import Backbone


@torch.no_grad()
def generated_states(
    backbone: Backbone, batch: Mapping[str, object], num_layers: int, max_new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Hidden states at the tokens of the model's own answer, which has seen image and question; no annotation takes part.

    The answer is read again whole, as a prompt is, so that the states do not depend on how generation cached them.

    Args:
        backbone: in eval mode.
        batch: without answers, padded on the left (`Collator(answers=False)`).
        num_layers: last layers that are kept.
        max_new_tokens: of the answer; one that is longer is cut there.

    Returns:
        (num_layers, B, A, H) and which of the A tokens are of the answer, (B, A) bool: up to and with its end mark, so at least one.
    """
    inputs = backbone.family.model_inputs(batch)
    answer = backbone.answer_tokens(inputs, max_new_tokens)
    is_end = torch.isin(answer, torch.tensor(backbone.end_token_ids, device=answer.device))
    # What follows the first end mark is padding.
    mask = (is_end.cumsum(1) - is_end.long()) == 0
    extended = backbone.family.extended(inputs, answer, mask)
    return backbone.hidden_states(extended, num_layers)[:, :, inputs["input_ids"].shape[1] :], mask
