from __future__ import annotations

import random

import pytest

from data_prep.demo.world import World, affect
from data_prep.demo.world.affect import noisy_label
from emo_lightning.analysis.baselines import (
    MEAN_BOX,
    MEDIAN_BOX,
    SHUFFLED,
    TEXT_ONLY,
    TRIPLET_ONLY,
    ShuffledLabels,
    TextOnly,
    TripletOnly,
)
from emo_lightning.analysis.references import References
from emo_lightning.analysis.table5 import table5
from emo_lightning.core.records import EMOTIONS, Prediction, Record
from tests.made import as_json, make_prediction, make_record

BOX = (0.0, 0.0, 10.0, 10.0)

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


def drawn(split: str, count: int, noise: float = 0.0) -> list[Record]:
    """Records of the drawn world, without their images; so many of the emotions are wrong."""
    world, rng = World(seed=5), random.Random(5)
    found = []
    for n in range(count):
        background, attribute, subject = triplet = world.triplet(split, n)
        true = affect(*triplet)
        found.append(
            make_record(
                f"{split}{n}",
                emotion=noisy_label(true, noise, rng),
                intensity=true.intensity,
                background=background,
                attribute=attribute,
                subject=subject.upper(),
            )
        )
    return found


def test_the_triplet_is_a_ceiling_that_label_noise_lowers_and_unseen_combinations_lower_more() -> None:
    """The emotion of the drawn world follows from the triplet: who reads it is nearly always right where labels were shown."""
    seen, unseen = drawn("test", 240), drawn("heldout", 240)
    clean, noisy = TripletOnly(drawn("train", 1200)), TripletOnly(drawn("train", 1200, 0.1))

    def right(reader: TripletOnly, records: list[Record]) -> float:
        return sum(p.emotion == r.emotion for p, r in zip(reader.answers(records), records, strict=True)) / len(records)

    assert right(clean, seen) > 0.97
    assert right(clean, seen) >= right(noisy, seen) > 0.9 > right(noisy, unseen) > 0.5
    column = as_json(table5({}, References(seen), References(drawn("train", 400)), resamples=0))["baselines"][TRIPLET_ONLY]
    assert column["strict"]["intensity_kappa"] > 80
    assert column["strict"]["subject"] is column["strict"]["triplet"] is None
    # A triplet with a part missing is not read.
    silent = seen[0].model_copy(update={"subject": " "})
    assert clean.answers([silent])[0].emotion is None


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


def test_constants_and_shuffles_name_a_triplet_and_the_upper_reading_does_not() -> None:
    names = [("sea", "calm", "boat")] * 3 + [("sea", "wild", "dog")] * 2 + [("park", "wild", "dog")] * 2
    records = [
        make_record(f"i{n}", [BOX], emotion=EMOTIONS[n], description=f"{EMOTIONS[n]}", background=b, attribute=a, subject=s)
        for n, (b, a, s) in enumerate(names)
    ]
    result = as_json(table5({}, References(records), References(records)))
    column = {name: one["strict"] for name, one in result["baselines"].items()}
    # Each part by itself: sea, wild, dog; as a whole: sea, calm, boat.
    assert column[MEAN_BOX]["background"] == pytest.approx(500 / 7)
    assert column[MEAN_BOX]["subject"] == pytest.approx(400 / 7)
    assert column[MEAN_BOX]["triplet"] == pytest.approx(200 / 7)
    assert column[MEDIAN_BOX]["subject"] == column[MEDIAN_BOX]["triplet"] == pytest.approx(300 / 7)
    assert column[SHUFFLED]["triplet_similar"] is not None
    assert column[TEXT_ONLY]["subject"] is column[TEXT_ONLY]["triplet_similar"] is None
    assert result["baselines"][MEDIAN_BOX]["answer"]["triplet"] == "sea - calm - boat"


def test_the_gain_over_blind_answers_is_paired_and_never_over_the_upper_reading() -> None:
    """The description names the emotion, so the upper reading has all right; the model has three of four; the constant one of eight."""
    test = labelled(64, "test")
    said = {
        r.id: make_prediction(r.id, emotion=r.emotion if n % 4 else "awe", intensity=r.intensity) for n, r in enumerate(test)
    }
    result = as_json(table5({"ours": said}, References(test), References(labelled(80, "train"))))
    gap = result["over_blind"]["ours"]["strict"]["emotion_acc"]
    best = max(result["baselines"][name]["strict"]["emotion_acc"] for name in (MEAN_BOX, MEDIAN_BOX, SHUFFLED))
    assert gap["baseline"] in (MEAN_BOX, MEDIAN_BOX, SHUFFLED)
    assert gap["difference"] == pytest.approx(result["arms"]["ours"]["strict"]["emotion_acc"] - best)
    assert 0 < gap["interval"][0] < gap["difference"] < gap["interval"][1]
    assert result["over_blind"]["ours"]["strict"]["subject"] is None
    assert result["ahead"] is None, "one arm alone is ahead of none"


def test_an_arm_is_ahead_only_where_all_its_intervals_say_so() -> None:
    test = labelled(120, "test")

    def arm(share: int) -> dict[str, Prediction]:
        return {r.id: make_prediction(r.id, emotion=r.emotion if n % 10 < share else None) for n, r in enumerate(test)}

    ahead = table5({"low": arm(3), "high": arm(8), "near": arm(3)}, References(test))["ahead"]
    assert ahead
    assert ahead["strict"]["emotion_acc"] == "high"
    assert ahead["strict"]["parse_failure"] == "high", "where less is better"
    assert ahead["strict"]["bbox_iou"] is None
    equal = table5({"a": arm(8), "b": arm(8)}, References(test))["ahead"]
    assert equal
    assert set(equal["strict"].values()) == {None}
    assert table5({"a": arm(8), "b": arm(3)}, References(test), resamples=0)["ahead"] is None


def test_what_cannot_be_had_is_named() -> None:
    result = table5({}, References([make_record("a", emotion="awe")]))
    assert result["omitted"] == {
        SHUFFLED: "shuffled labels need annotations of two images",
        TEXT_ONLY: "it learns from a training set, and none was given",
        TRIPLET_ONLY: "it learns from a training set, and none was given",
    }
    one_emotion = table5({}, References(labelled(2, "x")), References([make_record("t", emotion="awe", description="x")]))
    assert "fewer than two emotions" in one_emotion["omitted"][TEXT_ONLY]
