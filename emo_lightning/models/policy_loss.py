"""Group-relative policy optimisation: advantages, the loss in its four forms, and log-probabilities of what a policy has said.

`grpo`: Shao et al. 2024 (arXiv:2402.03300), equation 3. `dr_grpo`: Liu et al. 2025 (arXiv:2503.20783). `dapo`: Yu et al. 2025
(arXiv:2503.14476). `gspo`: Zheng et al. 2025 (arXiv:2507.18071). They differ in three things: what the ratio to the policy that has
sampled is of (a token, or a reply), over what the loss is a mean, and whether a group's rewards are divided by their deviation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from emo_lightning.models.loss import each_chunk

RatioLevel = Literal["token", "reply"]
LossMean = Literal["reply", "token", "constant"]

EPSILON = 1e-6
"""Beside the deviation of a group's rewards, as in verl, EasyR1 and EMO-R3."""
TOLERANCE = 1e-2
"""A group whose rewards lie no further apart says nothing, in units of the reward. Parts that are never twice the same (the counterfactual's are
probabilities) differ by chance, and divided by its own deviation chance has advantages of 1."""
_ROUNDING = 1e-8
"""By which sums of equal parts differ."""


@dataclass(frozen=True)
class Rule:
    """How a loss is made of ratios and advantages."""

    ratio: RatioLevel
    """`token`: each token has its own; `reply`: one for all tokens of a reply, the geometric mean of theirs (`gspo`)."""
    mean: LossMean
    """`reply`: of each reply's own mean (a token of a short reply weighs more); `token`: over all tokens of the step; `constant`: sums of
    replies over the most tokens that one may have."""
    divide: bool
    """Divide a group's advantages by the deviation of its rewards."""
    clip_low: float
    """The ratio counts down to 1 minus this."""
    clip_high: float
    """And up to 1 plus this."""
    clip_dual: float | None = None
    """With a negative advantage a token costs at most this often its advantage, however much likelier it has become."""
    kl_weight: float = 0.0
    """Of the KL to the reference."""


ALGORITHM_RULES: dict[str, Rule] = {
    "grpo": Rule("token", "reply", True, 0.2, 0.2),
    "dr_grpo": Rule("token", "constant", False, 0.2, 0.2),
    "dapo": Rule("token", "token", True, 0.2, 0.28),
    "gspo": Rule("reply", "reply", True, 3e-4, 4e-4),
}
"""The published settings of the four; the KL is none of theirs alone, and set beside them."""


class Groups(NamedTuple):
    """Rewards compared within the replies to one image."""

    advantages: Tensor
    """(images, G) float32; 0 where nothing can be said."""
    known: Tensor
    """(images, G) bool: whose reward is a number."""
    alike: Tensor
    """(images,) bool: fewer than two known rewards, none further than the tolerance from another (the group teaches nothing), or, where that
    is known, all right or all wrong (of what is right it teaches nothing)."""


def advantages(rewards: Tensor, *, divide: bool, tolerance: float = TOLERANCE, right: Tensor | None = None) -> Groups:
    """How much better each reply is than the mean of its group.

    Args:
        rewards: (images, G) float; NaN where a judge failed: such a reply is out of the mean, and has no advantage.
        divide: by the group's standard deviation (of a sample), plus `EPSILON`.
        tolerance: rewards of a group that are no further apart are the same.
        right: (images, G) bool, which replies are right. DAPO leaves out a group of which all or none are (its equation 11), whatever else
            its rewards are made of; the advantages that these give it stand.
    """
    known = rewards.isfinite()
    counts = known.sum(1, keepdim=True)
    values = rewards.nan_to_num(0.0, 0.0, 0.0).where(known, 0.0)
    apart = (values - values.sum(1, keepdim=True) / counts.clamp(min=1)).where(known, 0.0)
    width = values.where(known, -torch.inf).amax(1) - values.where(known, torch.inf).amin(1)
    same = (counts[:, 0] < 2) | (width <= tolerance + _ROUNDING)
    if divide:
        apart = apart / ((apart.square().sum(1, keepdim=True) / (counts - 1).clamp(min=1)).sqrt() + EPSILON)
    # Equal rewards differ in the last bit of their mean, which must not be blown up.
    alike = same if right is None else same | (right | ~known).all(1) | ~(right & known).any(1)
    return Groups(apart.masked_fill(same[:, None], 0.0).float(), known, alike)


def kl_to(reference: Tensor, log_p: Tensor) -> Tensor:
    """Estimate of KL(policy || reference) at each token that the policy has sampled: never negative, without bias (k3 of Schulman, 2020).

    Args:
        reference: log-probabilities of the reference.
        log_p: of the policy.
    """
    apart = reference - log_p
    return apart.exp() - apart - 1


class ReplyTokens(NamedTuple):
    """What policies make of the tokens of R replies, S of them in all; each tensor (S,) float32."""

    log_p: Tensor
    """Of the policy that learns, with its gradient."""
    sampled: Tensor
    """Of the policy that has sampled."""
    reference: Tensor | None
    """Of the one that the KL is to."""
    lengths: Tensor
    """(R,) int64, tokens of each reply."""


class Loss(NamedTuple):
    """A sum, what it is divided by once all micro-batches and ranks have added theirs, and what it is made of."""

    total: Tensor
    divisor: Tensor
    kl: Tensor
    """Mean of the KL over the tokens that count."""
    clipped: Tensor
    """Share of ratios that count and are beyond their bounds."""


def policy_loss(said: ReplyTokens, advantage: Tensor, counts: Tensor, rule: Rule, most_tokens: int) -> Loss:
    """The clipped loss of replies.

    Args:
        said: by the policies.
        advantage: (R,) of each reply.
        counts: (R,) bool: a reply that does not is in no sum and in no divisor.
        rule: of the algorithm.
        most_tokens: that a reply may have; the divisor of `constant`.
    """
    replies, lengths = len(said.lengths), said.lengths
    of = torch.repeat_interleave(torch.arange(replies, device=lengths.device), lengths, output_size=len(said.log_p))

    def by_reply(values: Tensor) -> Tensor:
        return values.new_zeros(replies).index_add(0, of, values)

    apart = said.log_p - said.sampled
    if rule.ratio == "reply":
        # The value of the reply's mean; the gradient of a token is as in the paper's equation 5.
        apart = (by_reply(apart) / lengths.clamp(min=1))[of]
    gain, ratio = advantage[of], apart.exp()
    bounded = ratio.clamp(1 - rule.clip_low, 1 + rule.clip_high)
    cost = torch.maximum(-gain * ratio, -gain * bounded)
    if rule.clip_dual is not None:
        cost = torch.where(gain < 0, torch.minimum(cost, -gain * rule.clip_dual), cost)
    kl = torch.zeros_like(cost) if said.reference is None else kl_to(said.reference, said.log_p)
    cost = cost + rule.kl_weight * kl
    held, tokens = counts[of], lengths * counts
    # Not a product with zero: what does not count may be infinite.
    cost = cost.where(held, 0.0)
    match rule.mean:
        case "reply":
            total, divisor = (by_reply(cost) / lengths.clamp(min=1)).sum(), counts.sum()
        case "token":
            total, divisor = cost.sum(), tokens.sum()
        case "constant":
            total, divisor = cost.sum() / most_tokens, counts.sum()
        case _:
            msg = f"mean {rule.mean!r}; allowed: reply, token, constant"
            raise ValueError(msg)
    number = tokens.sum().clamp(min=1)
    beyond = ((ratio - bounded).abs() > 0) & held
    return Loss(total, divisor, kl.detach().where(held, 0.0).sum() / number, beyond.sum() / number)


def token_log_probs(
    lm_head: nn.Module, states: Tensor, tokens: Tensor, banned: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probability of each token, and the entropy of the distribution that it is drawn from, in nats.

    Args:
        lm_head: H -> vocabulary.
        states: (S, H) after the final norm, before each token.
        tokens: (S,) int64.
        banned: (b,) ids that are never drawn.
        temperature: of the sampling.

    Returns:
        (S,) float32 each; the entropies have no gradient.
    """

    def rows(logits: Tensor, wanted: Tensor) -> Tensor:
        log_p = allowed_log_probs(logits, banned, temperature)
        spread = -(log_p.detach().exp() * log_p.detach().clamp(min=-1e4)).sum(-1)
        return torch.stack([log_p.gather(1, wanted[:, None])[:, 0], spread], 1)

    found = torch.cat(each_chunk(rows, lm_head, states, tokens))
    return found[:, 0], found[:, 1].detach()


def allowed_log_probs(logits: Tensor, banned: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (N, vocabulary) in float32, as replies are drawn: one function for those who draw and those who learn.

    Args:
        logits: (N, vocabulary).
        banned: (b,) ids; their probability is 0.
        temperature: above 0.
    """
    return (logits.float() / temperature).index_fill(-1, banned, -torch.inf).log_softmax(-1)
