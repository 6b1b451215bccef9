"""Rows of suites as they are published, for the tests of whoever reads them."""

from __future__ import annotations

import json
from typing import Any

QUESTION = {
    "question_type": "What/How",
    "perceptual_dimension": "Emotion perception",
    "question_concern": "Similarity perception",
}


def mvei(
    *, image: str = "../benchmarks/MVEI/images/a.jpg", verdict: str = "correct", kind: str = "scene context"
) -> dict[str, Any]:
    return {
        "image_path": image,
        "prompt": "<image>Is the statement correct?",
        "ground_truth": verdict,
        "other_info": {"statement_meta": {"class": kind}, "emotion": "awe"},
    }


def vecbench_line(name: str, task: str, candidates: list[str], truth: str, **more: object) -> str:
    content = [{"type": "image", "image": f"/data/{name}"}, {"type": "text", "text": "Which emotion?"}]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
    return json.dumps({"conversations": turns, "task": task, "candidates": candidates, "ground_truth": truth, **more}) + "\n"


def pair_row(number: int, **more: object) -> dict[str, Any]:
    return {
        "id": number,
        "image1_url": "579.jpg",
        "image1": "images\\579.jpg",
        "image1_label": "[Image1] Valence:5.33",
        "image2_url": "100.jpg",
        "question": "Which emotion is common to them?",
        "options": "{'A': 'Neutral', 'B': \"It's fear\"}",
        "correct_answer": "B",
        **QUESTION,
        **more,
    }


def assessed(name: str = "1.jpg", **more: object) -> dict[str, Any]:
    return {
        "image_name": name,
        "category": "Animal",
        "emotion_list": [["neutral", 37], ["joy", 39], ["surprise", 33]],
        "Valence": [6.0, 0.8165, 1.0],
        "Arousal": [4.25, 1.125, 1.75],
        "Dominance": [6.5, 0.75, 1.5],
        "judge_Q": "Is surprise among them?",
        "judge_A": {"A": "No", "B": "Yes"},
        "judge_answer": "B",
        "choose_Q": "How much dominance?",
        "choose_A": {"A": "Strong", "B": "Moderate", "C": "Weak"},
        "choose_answer": "A",
        "open_ended_Q": "Which elements?",
        **more,
    }
