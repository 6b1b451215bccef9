"""Ratings and votes of people in records: written where they are known, and nowhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from emo_lightning.core.records import Prediction, Reference, SchemaError, Votes

RATED: dict[str, Any] = {"id": "a", "valence": {"mean": 7, "std": 1.5, "low": 1, "high": 9}}


def test_keys_of_people_are_written_only_where_they_are_known() -> None:
    known, unknown = (Reference.from_json(json.dumps(one), "x") for one in (RATED, {"id": "a"}))
    keys = {"valence", "arousal", "dominance", "votes"}
    assert keys & json.loads(known.to_json()).keys() == {"valence"}
    assert not keys & json.loads(unknown.to_json()).keys()
    assert not keys & Prediction(id="a").model_dump().keys()
    assert Reference.from_json(known.to_json(), "again") == known
    assert known.affect() == [0.5, None, None]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"valence": {"mean": 10, "low": 1, "high": 9}}, "mean 10 is off its scale, 1 to 9"),
        ({"valence": {"mean": 1, "low": 1, "high": 1}}, "found a scale from 1 to 1; expected low < high"),
        ({"valence": 0.5}, "key 'valence'"),
        ({"valence": {"mean": 1}}, "key 'valence.low': is missing"),
        ({"votes": {"counts": {"awe": -1}}}, "found -1; expected at least 0"),
        ({"votes": {"counts": {"awe": 2}, "choices": [["awe"]]}}, "the choices add up to {'awe': 1}"),
        ({"votes": {"counts": {"awe": 1}, "choices": [["awe"]], "raters": 2}}, "votes.raters is 2; there are choices of 1"),
    ],
)
def test_what_cannot_be_is_refused(said: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError) as refused:
        Reference.from_json(json.dumps({"id": "a", **said}), "x")
    assert message in str(refused.value)


def test_choices_are_counted() -> None:
    votes = Votes.of_choices([["awe", "fear"], [], ["awe"]])
    assert (votes.counts, votes.raters) == ({"awe": 2, "fear": 1}, 3)
