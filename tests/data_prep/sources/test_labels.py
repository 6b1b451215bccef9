"""What the sources' words mean, and the records that come of them."""

from __future__ import annotations

from typing import Any

import pytest

from data_prep.sources.base import RefusedError
from data_prep.sources.labels import (
    EKMAN,
    EMOART,
    PLUTCHIK,
    SourceLabels,
    category,
    over_the_eight,
    source_record,
    top,
    translate,
)
from data_prep.store.items import is_labelled
from data_prep.store.rows import Item
from emo_lightning.core.records import EMOTIONS, Record


def item(labels: dict[str, Any], **changes: object) -> Item:
    values: dict[str, Any] = {
        **{"id": "x-1", "source": "x", "key": "1", "sha256": "0" * 64, "extension": "jpg", "width": 40, "height": 32},
        **{"split": "test", "group": None, "labels": labels, "regions": [], "licence": "CC0-1.0", "origin": "there"},
    }
    return Item(**{**values, **changes})


def test_maps_hold_what_the_sources_document() -> None:
    assert len(EMOART) == 13  # twelve labels and one spelling
    assert {word for word, emotion in EMOART.items() if emotion} == {
        *("excited", "calm", "content", "contentment", "sad", "alarmed", "annoyed")
    }
    assert len(PLUTCHIK) == 24
    assert {family for family, _ in PLUTCHIK.values()} >= {"trust", "anticipation"}
    assert [PLUTCHIK[leaf][1] for leaf in ("terror", "fear", "apprehension")] == ["high", "medium", "low"]
    assert [word for word, emotion in EKMAN.items() if emotion is None] == ["joy", "surprise"]


def test_words_are_mapped_by_name() -> None:
    assert (category(" Awe "), translate("Calm", EMOART), translate("bored", EMOART)) == ("awe", "contentment", None)
    for word, allowed in (("joy", category), ("amazed", lambda w: translate(w, EMOART)), ("", category)):
        with pytest.raises(RefusedError, match=r"unknown emotion .*; allowed: "):
            allowed(word)


def test_votes() -> None:
    assert top({"a": 2, "b": 1}) == "a"
    assert (top({"a": 2, "b": 2}), top({"a": 0.0, "b": 0.0}), top({})) == (None, None, None)
    scores = over_the_eight({"awe": 1, "fear": 3, "something else": 9})
    assert list(scores) == list(map(str, EMOTIONS))
    assert (scores["awe"], scores["fear"], sum(scores.values())) == (0.25, 0.75, 1)


@pytest.mark.parametrize(
    ("labels", "labelled", "record"),
    [
        ({}, False, False),
        ({"captions": ["a dog"]}, False, False),
        ({"valence": 2.0}, False, False),  # on a scale that is not known
        ({"emotion_raw": "bored", "valence": 2.0}, False, True),
        ({"valence_level": "positive"}, False, True),
        ({"questions": [{"id": "1", "task": "scene context", "truth": "correct"}]}, False, True),
        ({"emotion": "awe"}, True, True),
        ({"emotion_scores": {"awe": 0.5, "fear": 0.5}}, True, True),
        ({"emotion_raw": "rage", "intensity_level": "high"}, False, True),
    ],
)
def test_a_record_needs_something_to_compare_with(labels: dict[str, Any], labelled: bool, record: bool) -> None:
    assert (is_labelled(labels), source_record(item(labels)) is not None) == (labelled, record)


def test_a_word_that_people_denied_is_not_what_people_say() -> None:
    assert source_record(item({"emotion_raw": "fear", "attributes": {"agree": 1, "disagree": 2}}, source="fi")) is None


def test_a_record_of_the_source_holds_its_labels_and_no_annotation() -> None:
    labels: SourceLabels = {
        **{"emotion": "awe", "emotion_scores": {"awe": 0.75, "fear": 0.25}, "intensity_level": "low", "emotion_raw": "Awe"},
        **{"description": "A lake.", "subject": "lake", "des": [0.5] * 1024, "confidence_raw": 8.0},
    }
    region = {"phrase": "lake", "bbox": [1, 2, 30, 31], "score": 1.0, "mask": None, "primary": True}
    made = source_record(item(dict(labels), regions=[region]))
    assert made is not None
    assert (made.emotion, made.emotion_scores, made.intensity_level) == ("awe", {"awe": 0.75, "fear": 0.25}, "low")
    assert (made.description, made.background, made.subject) == ("A lake.", None, "lake")
    assert (made.confidence, made.intensity) == (None, None), "the release does not say which of the two its number is"
    assert made.des is not None
    assert made.objects[0].bbox == (1, 2, 30, 31)
    assert made.provenance["source_labels"] == {key: value for key, value in labels.items() if key != "des"}
    assert (made.split, made.provenance["licence"], made.provenance["labels_from"]) == ("test", "CC0-1.0", "source")
    assert Record.from_json(made.to_json(), "here") == made
    assert source_record(item({"emotion": "awe"}, split=None)).split == ""  # type: ignore[union-attr]
