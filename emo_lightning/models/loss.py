"""The loss of equation 1 (paper section 3.3), on the answer's tokens alone, and what turns its hard emotion label into a distribution."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX

MAX_LOGITS = 2**25
"""Entries of the logits that are in memory at once, in the 16 bytes that each takes up to its gradient: half a gigabyte."""

_ROWS = 2**14
"""Words whose rows of the head's gradient are computed at once: 67 MB in the 3B."""


class _Kept(FunctionCtx):
    """What `_LearningHead` keeps up to its backward pass."""

    term: Callable[..., Tensor]
    most: int
    cast: torch.dtype | None
    """Of autocast; None: the weight's own."""
    saved_tensors: tuple[Tensor, ...]


def supervised_loss(
    hidden: Tensor, labels: Tensor, lm_head: nn.Module, at: Tensor | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy summed over supervised tokens; logits are computed at their positions and nowhere else, a chunk at a time.

    With 151,936 words the full logits of a row of 8,192 tokens take 5 GB in fp32, and as much again for their gradient.

    Args:
        hidden: (B, T, H), after the final norm.
        labels: (B, T); `IGNORE_INDEX` where there is no target. Position t is predicted from t-1.
        lm_head: H -> vocabulary.
        at: (S,), where B is 1 and the supervised positions are known: nothing has to wait for the device then.
        weights: (1, T), what each target counts, where `at` is given; None: 1.

    Returns:
        (sum of -log p in float32, number of supervised tokens, or sum of their weights): divide after summing both over micro-batches and ranks.
    """
    if at is None:
        targets = labels[:, 1:]
        supervised = targets != IGNORE_INDEX
        states, wanted = hidden[:, :-1][supervised], targets[supervised]
    else:
        states, wanted = hidden[0, at - 1], labels[0, at]
    if at is None or weights is None:
        total, count = in_chunks(_nll, lm_head, states, wanted), torch.full((), len(wanted), device=hidden.device)
    else:
        weigh = weights[0, at]
        total, count = in_chunks(_weighed_nll, lm_head, states, wanted, weigh), weigh.sum()
    # An empty selection still has to reach every parameter, or ranks that wait for its gradient hang.
    # Summed in float32: a sum that float16 does not hold would make it NaN.
    return total + 0.0 * hidden.sum(dtype=torch.float32), count


def in_chunks(term: Callable[..., Tensor], lm_head: nn.Module, states: Tensor, *rest: Tensor) -> Tensor:
    """A sum over positions of what `term` makes of their logits; of several chunks each is computed again in the backward pass.

    Args:
        term: of (logits (n, vocabulary) in float32, and the rest's n rows); a scalar.
        lm_head: H -> vocabulary.
        states: (N, H).
        *rest: (N, …) each.
    """
    if len(states) > _most_rows(lm_head) and _learns_alone(lm_head) and torch.is_grad_enabled():
        found: Tensor = _LearningHead.apply(term, lm_head.weight, states, *rest)
        return found
    parts = each_chunk(term, lm_head, states, *rest)
    return parts[0] if len(parts) == 1 else torch.stack(parts).sum()


def each_chunk(term: Callable[..., Tensor], lm_head: nn.Module, states: Tensor, *rest: Tensor) -> list[Tensor]:
    """What `term` makes of the logits of each chunk of positions, in their order; arguments as `in_chunks`, but of the term's shape."""

    def of_chunk(states: Tensor, *rest: Tensor) -> Tensor:
        return term(lm_head(states).float(), *rest)

    most = _most_rows(lm_head)
    if len(states) <= most:
        return [of_chunk(states, *rest)]
    parts = zip(*(part.split(most) for part in (states, *rest)), strict=True)
    return [checkpoint(of_chunk, *part, use_reentrant=False) for part in parts]


def _most_rows(lm_head: nn.Module) -> int:
    """Positions whose logits are in memory at once."""
    return max(1, MAX_LOGITS // int(getattr(lm_head, "out_features", 1)))


def _learns_alone(lm_head: nn.Module) -> bool:
    """Whether its weight is all that it has, and learns; an adapter on it, or a hook, has to be called, and shards be gathered."""
    if type(lm_head) is not nn.Linear or lm_head.bias is not None or lm_head._forward_hooks or lm_head._forward_pre_hooks:
        return False
    return lm_head.weight.requires_grad and not isinstance(lm_head.weight, DTensor)


class _LearningHead(torch.autograd.Function):
    """`in_chunks` of a head whose weight learns.

    The gradient of the weight is as large as the weight, and autograd would make one for each chunk and add it to the sum of those before:
    three of them at once, of 0.6 GB each in the 3B. Here all chunks are added to the same one, some of its rows at a time.
    """

    @staticmethod
    def forward(ctx: _Kept, term: Callable[..., Tensor], weight: Tensor, states: Tensor, *rest: Tensor) -> Tensor:
        device = states.device.type
        ctx.term, ctx.most = term, max(1, MAX_LOGITS // len(weight))
        enabled = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        ctx.cast = torch.get_autocast_dtype(device) if enabled else None
        ctx.save_for_backward(weight, states, *rest)
        parts = zip(*(part.split(ctx.most) for part in (states, *rest)), strict=True)
        return torch.stack([term(functional.linear(some, weight).float(), *others) for some, *others in parts]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Kept, outer: Tensor) -> tuple[Tensor | None, ...]:
        weight, states, *rest = ctx.saved_tensors
        of_weight, of_states = torch.zeros_like(weight), torch.empty_like(states)
        cast = weight if ctx.cast is None else weight.to(ctx.cast)
        with nullcontext() if ctx.cast is None else torch.autocast(states.device.type, ctx.cast):
            for begin in range(0, len(states), ctx.most):
                end = begin + ctx.most
                some = states[begin:end].to(cast.dtype)
                logits = functional.linear(some, cast).requires_grad_()
                with torch.enable_grad():
                    part = ctx.term(logits.float(), *(one[begin:end] for one in rest))
                (of_logits,) = torch.autograd.grad(part, logits, outer)
                del logits, part
                of_states[begin:end] = of_logits @ cast
                for row in range(0, len(weight), _ROWS):
                    of_weight[row : row + _ROWS] += of_logits[:, row : row + _ROWS].T @ some
        return None, of_weight, of_states, *(None for _ in rest)


def _nll(logits: Tensor, wanted: Tensor) -> Tensor:
    return functional.cross_entropy(logits, wanted, reduction="sum")


def _weighed_nll(logits: Tensor, wanted: Tensor, weigh: Tensor) -> Tensor:
    return (functional.cross_entropy(logits, wanted, reduction="none") * weigh).sum()


def emotion_terms(hidden: Tensor, batch: ChatBatch, lm_head: nn.Module, *, soft: bool, distribution_weight: float) -> Tensor:
    """What is added to the sum of `supervised_loss` for answers that name an emotion with a known distribution q.

    `soft` replaces the cross-entropy at the emotion's first token by the one against q, over the whole vocabulary: the mean of the
    hard loss over words drawn from q (label distribution learning, Geng 2016; soft labels of people, Peterson et al. 2019). The
    distribution loss is KL(q || p), p being the softmax over the eight words' first tokens alone.

    Args:
        hidden: (B, T, H), after the final norm.
        batch: `labels` (B, T), or (1, T) packed, `emotion_at` (B,), `emotion_rows` (N,), `emotion_first` (B, 8), `emotion_target` (B, 8),
            as the collator makes them.
        lm_head: H -> vocabulary.
        soft: replace the hard target.
        distribution_weight: of the KL term, in answer tokens: 1 weighs it as much as one token.

    Returns:
        A sum over answers in float32, for the same divisor as that of `supervised_loss`.
    """
    # Known beforehand: nothing has to wait for the device.
    named = batch["emotion_rows"]
    at = batch["emotion_at"][named]
    rows = torch.zeros_like(named) if "lengths" in batch else named
    first, target = batch["emotion_first"][named], batch["emotion_target"][named]
    hard = batch["labels"][rows, at][:, None]
    weigh = batch["label_weights"][rows, at] if "label_weights" in batch else torch.ones_like(at, dtype=torch.float32)

    def terms(logits: Tensor, hard: Tensor, first: Tensor, target: Tensor, weigh: Tensor) -> Tensor:
        by_word = weigh[:, None]
        total = logits.sum() * 0.0
        if soft:
            log_p = logits.log_softmax(-1)
            total = total + (by_word * log_p.gather(1, hard)).sum() - (by_word * target * log_p.gather(1, first)).sum()
        if distribution_weight:
            log_eight = logits.gather(1, first).log_softmax(-1)
            total = total + distribution_weight * (by_word * functional.kl_div(log_eight, target, reduction="none")).sum()
        return total

    # Position t is predicted from t-1.
    return in_chunks(terms, lm_head, hidden[rows, at - 1], hard, first, target.float(), weigh)
