"""What stands where a record has a number is a finite number, and boxes are pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.analysis.references import by_id
from emo_lightning.core.errors import UserError
from emo_lightning.core.records import GroundedObject, Prediction, Record, SchemaError, Triplet
from emo_lightning.core.records.ratings import Rating

BOX = {"phrase": "dog", "bbox": [10.0, 5.0, 40.0, 45.0], "score": 0.5}
RECORD: dict[str, Any] = {"id": "a", "source": "s", "width": 100, "height": 50, "sha256": "0" * 64, "split": "test"}
FIELDS: dict[str, Any] = {
    "width": lambda x: {"width": x},
    "height": lambda x: {"height": x},
    "confidence": lambda x: {"confidence": x},
    "intensity": lambda x: {"intensity": x},
    "emotion_scores": lambda x: {"emotion_scores": {"awe": x, "fear": 1.0}},
    "bbox": lambda x: {"objects": [{**BOX, "bbox": [x, 5.0, 40.0, 45.0]}]},
    "score": lambda x: {"objects": [{**BOX, "score": x}]},
    "des": lambda x: {"des": [0.5, x]},
}


def parse(**fields: object) -> Record:
    """A record with these fields, read from JSON."""
    return Record.from_json(json.dumps({**RECORD, **fields}), "x.tar:a.json")


@pytest.mark.parametrize("value", [True, False, "1", "0.5", math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("key", FIELDS)
def test_only_finite_numbers_are_numbers(key: str, value: object) -> None:
    with pytest.raises(SchemaError, match=r"x\.tar:a\.json: "):
        parse(**FIELDS[key](value))


def test_scores_are_a_distribution() -> None:
    for scores in ({"awe": math.nan, "fear": -5}, {"awe": 6, "fear": -5}, {"awe": 0.5}, {}):
        with pytest.raises(SchemaError, match=r"emotion_scores|NaN is no number"):
            parse(emotion_scores=scores)
    assert parse(emotion_scores={"awe": 1}).emotion_distribution() == [0, 1, 0, 0, 0, 0, 0, 0]


def test_fractions_are_no_pixels() -> None:
    fractions = {**BOX, "bbox": [0.1, 0.2, 0.9, 1.0]}
    with pytest.raises(
        SchemaError, match=r"x.tar:a.json: all boxes lie within 0–1, the first, of 'a': \[0.1, 0.2, 0.9, 1.0\]; expected"
    ):
        parse(objects=[fractions, {**BOX, "bbox": [0, 0, 1, 1]}])
    assert len(parse(objects=[fractions, BOX]).objects) == 2
    assert parse(width=1, height=1, objects=[{**BOX, "bbox": [0, 0, 1, 1]}]).objects


@pytest.mark.parametrize("key", ["confidence", "intensity", "width", "des", "emotion_scores", "bbox"])
@pytest.mark.parametrize("value", [True, "1"])
def test_a_prediction_has_numbers_too(key: str, value: object) -> None:
    with pytest.raises(SchemaError, match=rf"p:1: key '{'objects.0.bbox' if key == 'bbox' else key}.*expected a number"):
        Prediction.from_json(json.dumps({"id": "a", **FIELDS[key](value)}), "p:1")


def test_predictions_in_fractions(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [{"id": str(n), "width": 100, "height": 50, "objects": [{"bbox": [0, 0, 0.5, 1]}]} for n in range(3)]
    path.write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(SchemaError, match=r"p\.jsonl: all boxes lie within 0–1, the first, of '0'"):
        by_id(path)
    path.write_text("\n".join(map(json.dumps, [*lines, {"id": "x", "objects": [{"bbox": [3, 4, 50, 60]}]}])))
    assert len(by_id(path)) == 4


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Record(**{**RECORD, "width": "wide"}), "Record: key 'width': "),
        (lambda: Record(id="a"), "Record: key 'source': is missing; and 4 more"),  # type: ignore[call-arg]
        (lambda: Record(**{**RECORD, "emotoin": "awe"}), "Record: key 'emotoin': unknown key"),
        (lambda: Prediction(id=3), "Prediction: key 'id': "),  # type: ignore[arg-type]
        (lambda: Triplet(background="b", attribute="a", subject=None), "Triplet: key 'subject': "),  # type: ignore[arg-type]
        (
            lambda: GroundedObject(phrase="dog", bbox=(9, 0, 1, 5), score=1.0),
            "GroundedObject: key 'bbox': box [9.0, 0.0, 1.0, 5.0] is empty",
        ),
        (lambda: Rating(mean=9, low=1, high=5), "Rating: key 'record': mean 9 is off its scale"),
    ],
)
def test_a_wrong_call_is_the_users(made: Callable[[], object], said: str) -> None:
    """As what their readers refuse: one line, a `UserError` and a `ValueError`."""
    with pytest.raises(SchemaError) as caught:
        made()
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, UserError)
    assert isinstance(caught.value, ValueError)
