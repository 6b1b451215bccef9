from __future__ import annotations

import pytest

from emo_lightning.analysis.baselines import SHUFFLED, TEXT_ONLY, ShuffledLabels, TextOnly
from emo_lightning.analysis.references import References
from emo_lightning.analysis.table5 import table5
from emo_lightning.core.records import EMOTIONS, Record
from tests.made import as_json, make_record

WORDS = dict(zip(EMOTIONS, ("clown", "peak", "sofa", "goal", "fist", "mould", "shadow", "grave"), strict=True))


def labelled(n: int, prefix: str, told: bool = True) -> list[Record]:
    """Emotion in turn; the description names it by a word of its own, or not at all."""
    return [
        make_record(
            f"{prefix}{i}",
            [(0, 0, 10.0 + i % 8, 10)],
            emotion=EMOTIONS[i % 8],
            intensity=i % 8 + 1,
            description=f"a {WORDS[EMOTIONS[i % 8]] if told else 'thing'} in a room",
        )
        for i in range(n)
    ]


def test_text_only_reads_the_words_and_nothing_else() -> None:
    train, test = labelled(80, "train"), labelled(40, "test")
    column = as_json(table5({}, References(test), References(train)))["baselines"][TEXT_ONLY]
    assert column["strict"]["emotion_acc"] == 100
    assert column["strict"]["intensity_acc"] > 90
    assert column["strict"]["bbox_iou"] is None
    assert column["intervals"]["paper"]["f1"] is None
    assert "bbox_iou" in column["inapplicable"]
    # The same labels under a description that tells nothing: one answer for all.
    blind = TextOnly(labelled(80, "train", told=False)).answers(labelled(8, "test", told=False))
    assert len({p.emotion for p in blind}) == 1
    silent = TextOnly(train).answers([test[0].model_copy(update={"description": None}), test[1]])
    assert silent[0].emotion is None
    assert silent[1].emotion == test[1].emotion


def test_shuffled_labels_follow_the_distribution_and_ignore_the_image() -> None:
    records = labelled(2000, "x")
    baseline = ShuffledLabels(records, seed=1)
    said = baseline.answers(records)
    right = sum(p.emotion == r.emotion for p, r in zip(said, records, strict=True))
    assert right / 2000 == pytest.approx(1 / 8, abs=0.03)
    assert baseline.answers(records[7:8])[0] == said[7]
    assert ShuffledLabels(records, seed=2).answers(records) != said
    # Never its own annotation, and boxes in its own frame.
    two = [make_record("a", [(0, 0, 50, 25)], emotion="awe"), make_record("b", width=200, height=100, emotion="fear")]
    a, b = ShuffledLabels(two).answers(two)
    assert (a.emotion, b.emotion) == ("fear", "awe")
    assert b.objects[0].bbox == (0, 0, 100, 50)


def test_what_cannot_be_had_is_named() -> None:
    result = table5({}, References([make_record("a", emotion="awe")]))
    assert result["omitted"] == {
        SHUFFLED: "shuffled labels need annotations of two images",
        TEXT_ONLY: "it learns from a training set, and none was given",
    }
    one_emotion = table5({}, References(labelled(2, "x")), References([make_record("t", emotion="awe", description="x")]))
    assert "fewer than two emotions" in one_emotion["omitted"][TEXT_ONLY]
