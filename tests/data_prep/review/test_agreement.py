"""Samples of records, and agreement of reviewers."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score

from data_prep.review.agreement import agreement, cohen_kappa, fleiss_kappa
from data_prep.review.sample import allocate, stratified_sample


def test_sample_is_stratified_seeded_and_stable() -> None:
    rng = random.Random(0)
    rows = [
        (f"i{n:04d}", rng.choice(["a", "a", "a", "b"]), rng.choice(["valid", "valid", "human"]), rng.choice(["awe", "fear"]))
        for n in range(800)
    ]
    chosen = stratified_sample(rows, 80, 1)
    assert chosen == stratified_sample(list(reversed(rows)), 80, 1)
    assert len(set(chosen)) == 80
    assert chosen != stratified_sample(rows, 80, 2)
    kinds = {row[0]: row[1:] for row in rows}
    sizes, taken = Counter(kinds.values()), Counter(kinds[i] for i in chosen)
    assert all(abs(taken[k] - 80 * n / 800) <= 1.5 for k, n in sizes.items())
    states = [kinds[i][1] for i in chosen]
    assert states == sorted(states), "human before valid"
    more = stratified_sample([*rows, ("new", "a", "valid", "awe")], 80, 1)
    assert len(set(more) - set(chosen)) <= 3


def test_every_stratum_gets_one_and_seats_add_up() -> None:
    ranks = [bytes([i]) for i in range(5)]
    assert allocate([1000, 1, 1, 1, 1], 10, ranks) == [6, 1, 1, 1, 1]
    assert sum(allocate([1000, 1, 1, 1, 1], 3, ranks)) == 3
    for count in range(60):
        sizes = [13, 7, 29, 1, 4]
        got = allocate(sizes, count, ranks)
        assert sum(got) == min(count, sum(sizes))
        assert all(g <= s for g, s in zip(got, sizes, strict=True))


def test_kappas_are_those_of_the_books() -> None:
    rng = random.Random(3)
    for _ in range(20):
        first = [rng.choice("abc") for _ in range(40)]
        second = [a if rng.random() < 0.6 else rng.choice("abcd") for a in first]
        assert cohen_kappa(list(zip(first, second, strict=True))) == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    # Fleiss' own table: 10 subjects, 14 raters, 5 categories; kappa 0.210.
    table = [
        "0 0 0 0 14",
        "0 2 6 4 2",
        "0 0 3 5 6",
        "0 3 9 2 0",
        "2 2 8 1 1",
        "7 7 0 0 0",
        "3 2 6 3 0",
        "2 5 3 2 2",
        "6 5 2 1 0",
        "0 2 2 3 7",
    ]
    items = [{c: int(n) for c, n in enumerate(row.split()) if int(n)} for row in table]
    assert fleiss_kappa(items) == pytest.approx(0.2099, abs=5e-5)
    assert cohen_kappa([("a", "a")] * 4) is None
    assert cohen_kappa([]) is None
    assert fleiss_kappa([{"a": 3}]) is None
    assert cohen_kappa([("a", "a"), ("b", "b")]) == 1.0
    assert cohen_kappa([("a", "b"), ("b", "a")]) == -1.0
    assert fleiss_kappa([{"a": 3}, {"b": 3}]) == pytest.approx(1.0)


def test_two_are_cohen_more_are_fleiss() -> None:
    two = {"i": {"ada": 1, "ben": 1}, "j": {"ada": 0, "ben": 1}, "k": {"ada": 0}}
    assert agreement(two)["kind"] == "cohen"
    assert agreement(two)["n"] == 2
    assert agreement(two)["observed"] == 0.5
    assert agreement({**two, "l": {"ada": 0, "eve": 0}})["kind"] == "fleiss"
