"""A frozen backbone reads its own greedy answer: the other source of features beside the prompt (an ablation)."""

from __future__ import annotations

import torch
from torch import Tensor

from emo_lightning.data.batches import ModelInputs
from emo_lightning.data.collate import model_inputs
from emo_lightning.models.backbone import Backbone


@torch.no_grad()
def answer_states(backbone: Backbone, batch: ModelInputs, num_layers: int, max_new_tokens: int) -> tuple[Tensor, Tensor]:
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
    inputs = model_inputs(batch)
    prompt = inputs["input_ids"].shape[1]
    whole = backbone.base.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True)
    answer = whole[:, prompt:]
    ends = backbone.base.generation_config.eos_token_id
    is_end = torch.isin(answer, torch.tensor(ends, device=answer.device))
    # What follows the first end mark is padding.
    mask = (is_end.cumsum(1) - is_end.long()) == 0
    extended: ModelInputs = {
        **inputs,
        "input_ids": whole,
        "attention_mask": torch.cat([inputs["attention_mask"], mask.to(inputs["attention_mask"].dtype)], 1),
        "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(answer)], 1),
    }
    return backbone.hidden_states(extended, num_layers)[:, :, prompt:], mask
