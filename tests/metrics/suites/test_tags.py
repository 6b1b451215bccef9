"""Pairs of tags are found as the regular expressions find them that the published scorers use."""

from __future__ import annotations

import re

import numpy as np

from emo_lightning.metrics.suites import eemo_logic, emobserver, emocaliber, own
from emo_lightning.metrics.suites.tags import between, first_in_a_line, until_the_last_in_a_line

PIECES = ["<answer>", "</answer>", "<ANSWER>", "</Answer>", "\n", "a", "<", "answer>", " "]


def test_as_regular_expressions() -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(PIECES, rng.integers(0, 14))) for _ in range(4000)]
    found = 0
    for text in texts:
        first = re.search(r"<answer>(.*?)</answer>", text)
        last = re.search(r"<answer>(.*?)</answer>(?!.*<answer>)", text)
        assert list(between(text, "answer")) == re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL | re.IGNORECASE)
        assert first_in_a_line(text, "answer") == (first and first[1])
        assert until_the_last_in_a_line(text, "answer") == (last and last[1])
        found += bool(first) + bool(last)
    assert found > 500


def test_a_long_reply_of_opening_tags_is_read_once() -> None:
    """Read again from each tag, the first of these would take hours."""
    for text in (
        "<answer>" * 50_000,
        "<confidence>" + " " * 200_000,
        "1" * 200_000 + "x",
        "{" * 200_000,
        "not " * 50_000,
        "A " * 100_000,
    ):
        assert emocaliber.choice(text, ["awe"]) == "unknown"
        assert emobserver.option(text, "B", text) == "A"
        assert eemo_logic.answer(text) is None
        assert own.option(text, {"B": "awe"}) is None
        assert own.confidence(text) is None
        assert own.number(text) is None
        assert own.verdict(text) in (None, "correct")
