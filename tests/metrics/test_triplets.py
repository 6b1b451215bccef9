from __future__ import annotations

from typing import Any

import pytest

from emo_lightning.core.records import Prediction, Record
from emo_lightning.metrics import bootstrap
from emo_lightning.metrics.accumulators import ScoredBatch
from emo_lightning.metrics.spelling import casefolded, similar, word_f1
from emo_lightning.metrics.triplets import TripletScores
from tests.made import make_prediction, make_record


def rows(pairs: list[tuple[Prediction | None, Record]]) -> tuple[dict[str, float | None], dict[str, int]]:
    metric = TripletScores()
    said, records = [p for p, _ in pairs], [r for _, r in pairs]
    metric.update(ScoredBatch(said, records, bootstrap.draws([r.id for r in records], 0, 0)))
    found = metric.compute()
    values = {row: float(value[0]) for row, value in found["point"]["strict"].items()}
    return {row: None if value != value else value for row, value in values.items()}, found["counts"]


def test_parts_and_wholes_by_hand() -> None:
    """Two images with a whole triplet, one whose reference has a subject alone, one with nothing."""
    whole: dict[str, Any] = {"background": "Snowy  mountain", "attribute": "sleeping", "subject": "old man"}
    pairs: list[tuple[Prediction | None, Record]] = [
        (
            make_prediction("a", background=" snowy mountain", attribute="Sleeping", subject="an old man"),
            make_record("a", **whole),
        ),
        (
            make_prediction("b", background="snowy mountains", attribute="sleeping", subject="old woman"),
            make_record("b", **whole),
        ),
        (make_prediction("c", subject="dog", background="park"), make_record("c", subject="dog")),
        (None, make_record("d")),
    ]
    found, counts = rows(pairs)
    assert found["background"] == 50
    assert found["background_similar"] == 100
    assert found["attribute"] == found["attribute_similar"] == 100
    assert found["subject"] == pytest.approx(100 / 3)
    assert found["subject_similar"] == pytest.approx(200 / 3)
    assert found["triplet"] == 0
    assert found["triplet_similar"] == 50
    assert counts == {"references_without_triplet": 1}


def test_no_answer_is_wrong_and_nothing_annotated_is_no_number() -> None:
    record = make_record("a", background="sea", attribute="calm", subject="boat")
    found, _ = rows([(None, record), (make_prediction("b", subject=" "), record.model_copy(update={"id": "b"}))])
    assert set(found.values()) == {0}
    found, counts = rows([(make_prediction("a", subject="boat"), make_record("a"))])
    assert set(found.values()) == {None}
    assert counts == {"references_without_triplet": 1}


@pytest.mark.parametrize(
    ("said", "true", "alike"),
    [
        ("an old man", "old man", True),
        ("snowy mountains", "snowy mountain", True),
        ("sleeping cat", "sleeping dog", False),
        ("park", "city park", False),
        ("old woman", "old man", False),
        ("a dog", "dogs", True),
        ("the", "a", False),
        ("puppy", "dog", False),  # Synonyms are not known, and the definition says so.
        ("a" * 5000, "b" * 5000, False),
    ],
)
def test_similar_is_a_matter_of_words_and_not_of_meaning(said: str, true: str, alike: bool) -> None:
    assert similar(casefolded(said), casefolded(true)) is alike


def test_f1_over_words_by_hand() -> None:
    assert word_f1("the old man of the sea", "an old man") == 2 * 2 / (4 + 2)
    assert word_f1("dog dog", "dog") == 2 / 3
    # An exact match is not lost to one that is only alike.
    assert word_f1("dogs dog", "dog dogs") == 1.0
    assert word_f1("", "dog") == 0.0
