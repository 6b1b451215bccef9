"""The loss of round 3: what published implementations were caught at, each as a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.models.policy_loss import (
    ALGORITHM_RULES,
    Loss,
    ReplyTokens,
    Rule,
    advantages,
    kl_to,
    policy_loss,
    token_log_probs,
)

MOST = 10


def said(
    log_p: Tensor, lengths: Sequence[int], sampled: Tensor | None = None, reference: Tensor | None = None
) -> tuple[ReplyTokens, int]:
    before = log_p.detach() if sampled is None else sampled
    return ReplyTokens(log_p, before, reference, torch.tensor(lengths)), len(lengths)


def gradient(log_p: Tensor, loss: Loss) -> Tensor:
    (found,) = torch.autograd.grad(loss.total / loss.divisor.clamp(min=1), log_p)
    return found


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, requires_grad=True)


# Advantages


def test_advantages_are_those_of_the_papers() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)
    deviation = rewards.std(1, keepdim=True)
    apart = rewards - rewards.mean(1, keepdim=True)
    assert torch.allclose(advantages(rewards, divide=True).advantages, (apart / deviation).float(), atol=1e-5)
    assert torch.allclose(advantages(rewards, divide=False).advantages, apart.float())


@pytest.mark.parametrize("value", [0.0, 0.1, 1.1])
def test_equal_rewards_have_no_advantage(value: float) -> None:
    """The mean of eight times 0.1 is not 0.1: divided by the deviation that would be an advantage of 1."""
    found = advantages(torch.full((2, 8), value, dtype=torch.float64), divide=True)
    assert found.advantages.abs().max() == 0
    assert found.alike.all()


def test_what_a_judge_could_not_judge_is_out_of_the_mean() -> None:
    rewards = torch.tensor([[1.0, torch.nan, 0.0, 0.0], [torch.nan, 0.5, torch.nan, torch.nan]])
    found = advantages(rewards, divide=True)
    assert torch.allclose(found.advantages[0, [0, 2, 3]], advantages(rewards[:1, [0, 2, 3]], divide=True).advantages[0])
    assert found.known.tolist() == [[True, False, True, True], [False, True, False, False]]
    assert found.advantages[0, 1] == 0
    assert found.advantages[1].abs().max() == 0
    assert found.alike.tolist() == [False, True]


@pytest.mark.parametrize("algorithm", ALGORITHM_RULES)
def test_chance_is_not_divided_by_its_own_deviation(algorithm: str) -> None:
    """Eight wrong replies whose counterfactual parts differ by less than a hundredth of what the right emotion is worth."""
    torch.manual_seed(0)
    chance = 0.1 + 0.1 * 0.05 * torch.randn(4, 8, dtype=torch.float64).clamp(-1, 1)
    tiny = 0.1 + 1e-5 * torch.rand(4, 8, dtype=torch.float64)
    for rewards in (chance, tiny):
        found = advantages(rewards, divide=ALGORITHM_RULES[algorithm].divide)
        assert found.alike.all()
        assert found.advantages.abs().max() == 0
    # What is more than chance counts; and one right reply among them does, whatever the others differ by.
    chance[:, 0] += 1.0
    found = advantages(chance, divide=True)
    assert not found.alike.any()
    assert (found.advantages[:, 0] > 2).all()
    assert advantages(torch.tensor([[0.1, 0.13]]), divide=True).advantages.abs().min() > 0.5
    assert advantages(torch.tensor([[0.1, 0.13]]), divide=True, tolerance=0.05).advantages.abs().max() == 0
    # A reward that is not known has no part in it.
    assert advantages(torch.tensor([[0.1, 0.105, torch.nan]]), divide=True).alike.all()


def test_a_group_is_left_out_by_what_is_right_as_in_dapo() -> None:
    """0 < right < G, equation 11, whatever else the reward is made of; what that gives stays an advantage."""
    right = torch.tensor([[False] * 4, [True] * 4, [True, False, False, False], [False, False, True, True]])
    beside = torch.tensor([0.0, 0.1, 0.05, 0.08], dtype=torch.float64)
    rewards = right.double() + beside
    rewards[3, 2:] = torch.nan
    found = advantages(rewards, divide=True, right=right)
    assert found.alike.tolist() == [True, True, False, True]
    assert (found.advantages[:2].abs().amax(1) > 0.5).all()
    rewards[1, 0] = torch.nan
    assert advantages(rewards, divide=True, right=right).alike.tolist() == [True, True, False, True]


# The four forms


def by_hand(rule: Rule, log_p: Tensor, before: Tensor, lengths: Sequence[int], advantage: Sequence[float]) -> Tensor:
    """A reply at a time, as the papers write it."""
    found, tokens = torch.zeros(()), 0
    for own, old, gain in zip(log_p.split(list(lengths)), before.split(list(lengths)), advantage, strict=True):
        ratio = (own - old).exp() if rule.ratio == "token" else (own - old).mean().exp().expand(len(own))
        bounded = ratio.clamp(1 - rule.clip_low, 1 + rule.clip_high)
        cost = -torch.minimum(ratio * gain, bounded * gain)
        found = found + (cost.mean() if rule.mean == "reply" else cost.sum() / (MOST if rule.mean == "constant" else 1))
        tokens += len(own)
    return found / (tokens if rule.mean == "token" else len(lengths))


@pytest.mark.parametrize("name", ALGORITHM_RULES)
def test_each_is_what_its_paper_writes(name: str) -> None:
    torch.manual_seed(0)
    lengths, advantage = [3, 1, 5], [1.5, -0.7, -0.2]
    rule = ALGORITHM_RULES[name]
    log_p = (-torch.rand(9) * 3).requires_grad_()
    before = log_p.detach() + 0.4 * torch.randn(9) * (4e-3 if rule.ratio == "reply" else 1)
    own, replies = said(log_p, lengths, before)
    loss = policy_loss(own, torch.tensor(advantage), torch.ones(replies, dtype=torch.bool), rule, MOST)
    expected = by_hand(rule, log_p, before, lengths, advantage)
    assert float((loss.total / loss.divisor).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert torch.allclose(gradient(log_p, loss), torch.autograd.grad(expected, log_p)[0], atol=1e-6)
    assert 0 < loss.clipped < 1


def test_the_weight_of_a_token_depends_on_the_length_of_its_reply_in_grpo_and_gspo_alone() -> None:
    for name, rule in ALGORITHM_RULES.items():
        log_p = leaf(*[-1.0] * 8)
        own, replies = said(log_p, [2, 6])
        loss = policy_loss(own, torch.ones(replies), torch.ones(replies, dtype=torch.bool), rule, MOST)
        short, long = gradient(log_p, loss)[[0, -1]].tolist()
        assert short / long == pytest.approx(3.0 if rule.mean == "reply" else 1.0), name


def test_in_micro_batches_it_is_the_same() -> None:
    """Sums and divisors of two halves, added up, are those of the whole."""
    torch.manual_seed(1)
    lengths, advantage = [2, 4, 1, 3], torch.randn(4)
    log_p = -torch.rand(10)
    everyone = torch.ones(4, dtype=torch.bool)
    for rule in ALGORITHM_RULES.values():
        whole = policy_loss(said(log_p, lengths)[0], advantage, everyone, rule, MOST)
        one = policy_loss(said(log_p[:6], lengths[:2])[0], advantage[:2], everyone[:2], rule, MOST)
        other = policy_loss(said(log_p[6:], lengths[2:])[0], advantage[2:], everyone[2:], rule, MOST)
        assert float(whole.total / whole.divisor) == pytest.approx(
            float((one.total + other.total) / (one.divisor + other.divisor))
        )


@pytest.mark.parametrize("name", ALGORITHM_RULES)
def test_what_does_not_count_is_in_no_sum_and_in_no_divisor(name: str) -> None:
    """Truncated replies, those of a failed judge, fillers."""
    log_p = leaf(-0.5, -1.0, -2.0, -0.1, -0.2)
    own, _ = said(log_p, [2, 1, 2], reference=log_p.detach() - 0.3)
    rule = replace(ALGORITHM_RULES[name], kl_weight=0.1)
    advantage = torch.tensor([1.0, torch.inf, -1.0])
    some = policy_loss(own, advantage, torch.tensor([True, False, True]), rule, MOST)
    left = leaf(-0.5, -1.0, -0.1, -0.2)
    alone, _ = said(left, [2, 2], reference=left.detach() - 0.3)
    without = policy_loss(alone, advantage[[0, 2]], torch.ones(2, dtype=torch.bool), rule, MOST)
    assert float((some.total / some.divisor).detach()) == pytest.approx(float((without.total / without.divisor).detach()))
    assert float(some.kl) == pytest.approx(float(without.kl))
    assert torch.allclose(gradient(log_p, some)[[0, 1, 3, 4]], gradient(left, without))


@pytest.mark.parametrize("name", ALGORITHM_RULES)
def test_where_nothing_counts_the_gradient_is_zero(name: str) -> None:
    log_p = leaf(-0.5, -1.0, -2.0)
    own, replies = said(log_p, [2, 1], reference=torch.tensor([-1.0, -1.0, -1.0]))
    rule = replace(ALGORITHM_RULES[name], kl_weight=0.1)
    loss = policy_loss(own, torch.ones(replies), torch.zeros(replies, dtype=torch.bool), rule, MOST)
    assert float(loss.divisor) == 0
    assert gradient(log_p, loss).tolist() == [0.0, 0.0, 0.0]


def test_a_ratio_beyond_its_bound_teaches_nothing_more() -> None:
    rule = ALGORITHM_RULES["grpo"]
    log_p = leaf(0.5, 0.5, -0.5, -0.5)
    own, _ = said(log_p, [1, 1, 1, 1], torch.zeros(4))
    loss = policy_loss(own, torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.ones(4, dtype=torch.bool), rule, MOST)
    assert [value != 0 for value in gradient(log_p, loss).tolist()] == [False, True, True, False]
    assert float(loss.clipped) == 1.0
    dual = policy_loss(
        own, torch.tensor([1.0, -1.0, 1.0, -1.0]), torch.ones(4, dtype=torch.bool), replace(rule, clip_dual=1.5), MOST
    )
    assert [value != 0 for value in gradient(log_p, dual).tolist()] == [False, False, True, False]


# KL


def test_the_kl_is_what_sampling_gives_on_average() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(6), torch.randn(6)
    p, log_p, log_q = policy.softmax(0), policy.log_softmax(0), reference.log_softmax(0)
    assert float((p * kl_to(log_q, log_p)).sum()) == pytest.approx(
        float(functional.kl_div(log_q, log_p, log_target=True, reduction="sum"))
    )
    assert float(kl_to(log_q, log_p).min()) >= 0
    assert kl_to(log_p, log_p).tolist() == [0.0] * 6


def test_the_kl_pulls_back_and_equal_rewards_leave_only_it() -> None:
    log_p = leaf(-0.5, -0.5)
    own, _ = said(log_p, [1, 1], reference=torch.tensor([-1.5, -0.2]))
    loss = policy_loss(
        own, torch.zeros(2), torch.ones(2, dtype=torch.bool), replace(ALGORITHM_RULES["grpo"], kl_weight=0.5), MOST
    )
    likelier, rarer = gradient(log_p, loss).tolist()
    assert likelier > 0 > rarer


# Log-probabilities


def test_banned_tokens_have_no_probability_and_no_gradient() -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 12, bias=False)
    states, tokens, banned = torch.randn(5, 8), torch.tensor([0, 3, 4, 7, 11]), torch.tensor([2, 5])
    log_p, entropy = token_log_probs(head, states, tokens, banned, 0.7)
    logits = head(states) / 0.7
    left = [n for n in range(12) if n not in (2, 5)]
    expected = logits[:, left].log_softmax(-1)
    assert torch.allclose(log_p, expected[range(5), [left.index(int(t)) for t in tokens]], atol=1e-6)
    assert torch.allclose(entropy, -(expected.exp() * expected).sum(-1), atol=1e-6)
    (grad,) = torch.autograd.grad(log_p.sum(), head.weight)
    assert grad[[2, 5]].abs().max() == 0
    assert grad.isfinite().all()


def test_a_chunk_at_a_time_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = nn.Linear(8, 12, bias=False)
    states, tokens, banned = torch.randn(7, 8, requires_grad=True), torch.randint(3, 12, (7,)), torch.tensor([1])
    found = token_log_probs(head, states, tokens, banned, 1.0)
    monkeypatch.setattr("emo_lightning.models.loss.MAX_LOGITS", 24)
    parts = token_log_probs(head, states, tokens, banned, 1.0)
    assert torch.allclose(found[0], parts[0], atol=1e-6)
    assert torch.allclose(found[1], parts[1], atol=1e-6)
    for one, other in zip(
        *(torch.autograd.grad(log_p.sum(), [states, head.weight]) for log_p, _ in (found, parts)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-6)


# What it is for


def test_a_policy_learns_more_than_the_best_constant_answer() -> None:
    """Six kinds of images, eight words, of which one is right; the format is known from the beginning, and worth the same to all."""
    torch.manual_seed(0)
    truth = torch.tensor([0, 3, 3, 5, 7, 1])
    for name, rule in ALGORITHM_RULES.items():
        policy = nn.Parameter(torch.zeros(6, 8))
        optimiser = torch.optim.Adam([policy], lr=0.1)
        for _ in range(80):
            drawn = torch.multinomial(policy.detach().softmax(-1), 8, replacement=True)
            groups = advantages(0.1 + (drawn == truth[:, None]).double(), divide=rule.divide)
            log_p = policy.log_softmax(-1).gather(1, drawn).flatten()
            own, replies = said(log_p, [1] * 48)
            loss = policy_loss(own, groups.advantages.flatten(), torch.ones(replies, dtype=torch.bool), rule, 1)
            optimiser.zero_grad()
            (loss.total / loss.divisor).backward()
            optimiser.step()
        right = float((policy.argmax(-1) == truth).float().mean())
        assert right > 2 / 6, name
