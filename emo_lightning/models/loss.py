"""The loss of equation 1 (paper section 3.3), on the answer's tokens alone, and what turns its hard emotion label into a distribution."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE


def supervised_loss(hidden: Tensor, labels: Tensor, lm_head: nn.Module) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over supervised tokens; logits are computed at their positions and nowhere else.

    With 151,936 words and 300 tokens a sample, the full logits of a batch of 8 take 1.4 GB in fp32; the answer's a sixth.

    Args:
        hidden: (B, T, H), after the final norm.
        labels: (B, T); `IGNORE` where there is no target. Position t is predicted from t-1.
        lm_head: H -> vocabulary.

    Returns:
        (sum of -log p in float32, number of supervised tokens): divide after summing both over micro-batches and ranks.
    """
    targets = labels[:, 1:]
    supervised = targets != IGNORE
    logits = lm_head(hidden[:, :-1][supervised])
    total = functional.cross_entropy(logits.float(), targets[supervised], reduction="sum")
    # An empty selection still has to reach every parameter, or ranks that wait for its gradient hang.
    return total + 0.0 * hidden.sum().float(), torch.count_nonzero(supervised)


def emotion_terms(hidden: Tensor, batch: ChatBatch, lm_head: nn.Module, *, soft: bool, distribution_weight: float) -> Tensor:
    """What is added to the sum of `supervised_loss` for answers that name an emotion with a known distribution q.

    `soft` replaces the cross-entropy at the emotion's first token by the one against q, over the whole vocabulary: the mean of the
    hard loss over words drawn from q (label distribution learning, Geng 2016; soft labels of people, Peterson et al. 2019). The
    distribution loss is KL(q || p), p being the softmax over the eight words' first tokens alone.

    Args:
        hidden: (B, T, H), after the final norm.
        batch: `labels` (B, T), or (1, T) packed, `emotion_at` (B,), `emotion_first` (B, 8), `emotion_target` (B, 8), as the collator makes them.
        lm_head: H -> vocabulary.
        soft: replace the hard target.
        distribution_weight: of the KL term, in answer tokens: 1 weighs it as much as one token.

    Returns:
        A sum over answers in float32, for the same divisor as that of `supervised_loss`.
    """
    named = (batch["emotion_at"] > 0).nonzero()[:, 0]
    at = batch["emotion_at"][named]
    rows = torch.zeros_like(named) if "lengths" in batch else named
    # Position t is predicted from t-1.
    logits: Tensor = lm_head(hidden[rows, at - 1]).float()
    first, target = batch["emotion_first"][named], batch["emotion_target"][named].to(logits)
    total = logits.sum() * 0.0
    if soft:
        log_p = logits.log_softmax(-1)
        hard = log_p.gather(1, batch["labels"][rows, at][:, None]).sum()
        total = total + hard - (target * log_p.gather(1, first)).sum()
    if distribution_weight:
        log_eight = logits.gather(1, first).log_softmax(-1)
        total = total + distribution_weight * functional.kl_div(log_eight, target, reduction="sum")
    return total
