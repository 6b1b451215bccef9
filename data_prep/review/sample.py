"""Which records a human looks at: a seeded sample, stratified by emotion, source and outcome. Pure functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from data_prep.review.decisions import ReviewError

Stratum = tuple[str, str, str]
"""(source, state, emotion)."""
SAMPLED_STATES = ("human", "valid", "discarded")


def parse_states(text: str) -> tuple[str, ...]:
    """`human,valid` → ("human", "valid").

    Raises:
        ReviewError: an unknown state.
    """
    states = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [state for state in states if state not in SAMPLED_STATES]
    if unknown or not states:
        msg = f"--states {text!r}: found {', '.join(unknown) or 'none'}; allowed: {', '.join(SAMPLED_STATES)}"
        raise ReviewError(msg)
    return states


def stratified_sample(rows: Sequence[tuple[str, str, str, str]], count: int | None, seed: int) -> list[str]:
    """Ids in the order to look at them: the human queue first, then the other states; within a state in seeded order.

    Every stratum gets one (where `count` allows), the rest is shared in proportion to size. An item's rank depends on the seed
    and its id alone, so new items change little of an earlier sample.

    Args:
        rows: (item id, source, state, emotion).
        count: how many; None or more than there are takes all.
        seed: another one, another sample.
    """
    strata: dict[Stratum, list[str]] = {}
    for item_id, source, state, emotion in rows:
        strata.setdefault((source, state, emotion), []).append(item_id)
    keys = sorted(strata)
    quotas = allocate([len(strata[key]) for key in keys], count, [_rank(seed, "\0".join(key)) for key in keys])
    chosen = []
    for key, quota in zip(keys, quotas, strict=True):
        ranked = sorted(strata[key], key=lambda item_id: _rank(seed, item_id))
        chosen += [(SAMPLED_STATES.index(key[1]), _rank(seed, item_id), item_id) for item_id in ranked[:quota]]
    return [item_id for _, _, item_id in sorted(chosen)]


def allocate(sizes: Sequence[int], count: int | None, ranks: Sequence[bytes]) -> list[int]:
    """How many of each stratum: one each (by rank where they do not go round), then in proportion by largest remainder."""
    total = sum(sizes)
    if count is None or count >= total:
        return list(sizes)
    order = sorted(range(len(sizes)), key=lambda i: ranks[i])
    quotas = [0] * len(sizes)
    for i in order[: min(count, len(sizes))]:
        quotas[i] = 1
    left = count - sum(quotas)
    if left <= 0:
        return quotas
    # Whole numbers throughout: floats could give one seat too many.
    spare = total - len(sizes)
    shares = [left * (size - 1) for size in sizes]
    quotas = [quota + share // spare for quota, share in zip(quotas, shares, strict=True)]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (-(shares[i] % spare), ranks[i]))
    for i in by_remainder[: count - sum(quotas)]:
        quotas[i] += 1
    return quotas


def _rank(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{text}".encode()).digest()
