"""Nothing is shown of an answer that is being written but what stays."""

from __future__ import annotations

import json

import numpy as np
import pytest

from emo_lightning.data.chat import merge_predictions, parse_answer
from emo_lightning.inference.results import Explanation, said_of
from emo_lightning.inference.text import as_text
from emo_lightning.inference.unfinished import UNFINISHED_MARK, settled, unfinished
from emo_lightning.models.families import FAMILIES

SIZE = (80, 60)
QUESTIONS = ["attributes", "emotion"]
SEEN = {
    "bbox_2d": [[1, 2, 30, 40]],
    "description": 'A "dög" 🐕\n runs\\',
    "background": "a beach",
    "attribute": "wet",
    "subject": "dog",
}


def shown(words: object, as_json: bool) -> str:
    explanation = Explanation(said_of(words, None), None, np.ones(4, np.float32), words)  # type: ignore[arg-type]
    return json.dumps(explanation.as_json(des=False), ensure_ascii=False) if as_json else as_text(explanation)


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize(
    "changed", [{}, {"background": ""}, {"subject": None}, {"attribute": "x" + UNFINISHED_MARK}, {"description": "two words"}]
)
def test_every_beginning_of_an_answer_shows_a_beginning_of_its_text(
    as_json: bool, ascii_only: bool, changed: dict[str, str | None]
) -> None:
    replies = [json.dumps(SEEN | changed, ensure_ascii=ascii_only), '{"emotion": "awe", "intensity": 7}']
    codec = FAMILIES["qwen2_5_vl"].codec
    parts = [parse_answer(text, id="x", original=SIZE, resized=SIZE, codec=codec) for text in replies]
    whole = shown(merge_predictions(parts), as_json)
    texts = [
        settled(shown(unfinished([replies[0][:end], replies[1][:end]], QUESTIONS, "x", SIZE), as_json))
        for end in range(len(replies[0]) + 1)
    ]
    assert all(whole.startswith(text) for text in texts)
    assert [len(text) for text in texts] == sorted(len(text) for text in texts), "nothing is taken back"
    assert len(set(texts)) > 15, "letter by letter"
    assert ("two words" if changed.get("description") else "runs") in texts[-1]


@pytest.mark.parametrize(
    "reply", ["", "no JSON at all", '"description": "x"', '{"description": 7, "background": "', '{"description": "a\nb"}']
)
def test_of_what_is_no_answer_nothing_is_shown(reply: str) -> None:
    words = unfinished([reply, ""], QUESTIONS, "x", SIZE)
    assert (words.description, words.background, words.subject) == (UNFINISHED_MARK, UNFINISHED_MARK, UNFINISHED_MARK)
