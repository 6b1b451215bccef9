"""What a judge is asked of a description, and how its reply is read."""

from __future__ import annotations

import pytest

from emo_lightning.metrics.suites.judge import judge_prompt, judgement


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("2", 2),
        ("Score: 1", 1),
        ("Grade: **0**.", 0),
        ("It agrees in part, so 1.", 1),
        ("1 ... so the grade is 1", 1),
        ("2 (of 0, 1, 2)", None),
        ("10", None),
        ("1.5", None),
        ("none", None),
        ("", None),
    ],
)
def test_a_grade_is_read_where_one_alone_is_named(text: str, grade: int | None) -> None:
    assert judgement(text) == grade


def test_braces_of_a_reply_are_words() -> None:
    asked = judge_prompt("Why {sad}?", "loss", '{"a": 1}')
    assert "Why {sad}?" in asked
    assert '{"a": 1}' in asked
