"""Rewards: what they are worth is what the scorer says, and nothing is paid for looking right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Record
from emo_lightning.data.chat import OBJECTIVES, parse_answer
from emo_lightning.metrics.emotion_space import Anchors, EmotionSpace, read_embeddings, read_lexicon
from emo_lightning.metrics.rewards import (
    ReadReplies,
    box_overlap,
    candidate_words,
    constant_label,
    covered_fall,
    divergence,
    near_emotion,
    near_intensity,
    right_emotion,
    spread_of_labels,
    well_formed,
)
from emo_lightning.models.families.boxes import AbsolutePixels
from tests.made import make_record

ROOT = Path(__file__).parents[2]
SIZE = (100, 50)
ALL = ", ".join(EMOTIONS)


def shipped_anchors() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "configs/anchors/ddes.yaml").read_text(encoding="utf-8"))
    return dict(content["model"]["rewards"]["anchors"])


def answers(texts: list[str], record: Record | None = None, objective: str = "emotion") -> ReadReplies:
    """Replies to one image."""
    truth = record or make_record("a", [(10, 10, 60, 40)], emotion="awe", intensity=5, description="a calm lake")
    said = [parse_answer(text, id="a", original=SIZE, resized=SIZE, codec=AbsolutePixels()) for text in texts]
    return ReadReplies(said, [truth] * len(texts), OBJECTIVES[objective].keys)


GOOD = '{"emotion": "awe", "intensity": 5}'


@pytest.mark.parametrize(
    ("text", "right", "formed", "near"),
    [
        pytest.param(GOOD, 1, 1, 1.0, id="right"),
        pytest.param('{"emotion": "Awe ", "intensity": 7}', 1, 1, 0.8, id="case and blanks do not matter to the scorer"),
        pytest.param('{"emotion": "fear", "intensity": 5}', 0, 1, 1.0, id="wrong emotion"),
        pytest.param("", 0, 0, 0.0, id="empty"),
        pytest.param(f'{{"emotion": "{ALL}", "intensity": 5}}', 0, 0, 1.0, id="all labels"),
        pytest.param(
            f'{{"emotion": {json.dumps(list(map(str, EMOTIONS)))}, "intensity": 5}}', 0, 0, 1.0, id="list of all labels"
        ),
        pytest.param('{"emotion": "awe", "emotion": "fear", "intensity": 5}', 0, 0, 1.0, id="two values"),
        pytest.param('[{"emotion": "awe"}, {"emotion": "fear"}]', 0, 0, 0.0, id="two objects"),
        pytest.param(f"It is awe. {GOOD}", 1, 0, 1.0, id="around it"),
        pytest.param('{"emotion": "awe"}', 1, 0, 0.0, id="a key is missing"),
        pytest.param('{"emotion": "awe", "intensity": 5, "subject": "x"}', 1, 0, 1.0, id="a key too many"),
        pytest.param('{"emotion": "awe", "intensity": 55}', 1, 0, 0.0, id="off the scale"),
        pytest.param('{"emotion": "awe", "intens', 0, 0, 0.0, id="cut"),
        pytest.param('[["emotion", "awe"], ["intensity", 5]]', 0, 0, 0.0, id="no object"),
    ],
)
def test_a_reply_and_what_it_is_worth(text: str, right: int, formed: int, near: float) -> None:
    found = answers([text])
    assert (right_emotion(found)[0], well_formed(found)[0]) == (right, formed)
    assert near_intensity(found)[0] == pytest.approx(near)


def test_what_is_right_is_what_the_scorer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """One function: a scorer that counts otherwise makes another reward."""
    from emo_lightning.metrics.scores import EmotionScores

    monkeypatch.setattr(EmotionScores, "amounts", lambda _self, batch: np.full((len(batch.records), 5), 0.25))
    assert right_emotion(answers([GOOD])).tolist() == [0.25]


def test_boxes_are_matched_once() -> None:
    inside, other = "[10, 10, 60, 40]", "[0, 0, 5, 5]"
    texts = [f'{{"bbox_2d": [{boxes}]}}' for boxes in (inside, f"{inside}, {inside}", other, f"{inside}, {other}", "")]
    assert box_overlap(answers(texts, objective="grounding")).tolist() == pytest.approx([1.0, 0.5, 0.0, 0.5, 0.0])
    unannotated = make_record("a", [], emotion="awe")
    assert box_overlap(answers(texts, unannotated, "grounding")).tolist() == [0.0] * 5


def test_a_near_emotion_is_worth_more_than_a_far_one() -> None:
    space = Anchors(**shipped_anchors()).space
    assert "arXiv" in space.source
    assert space.distances.max() == 1
    texts = [f'{{"emotion": "{e}", "intensity": 5}}' for e in EMOTIONS]
    torn = make_record("a", emotion_scores={"fear": 0.5, "anger": 0.5}, emotion="fear")
    worth = dict(zip(map(str, EMOTIONS), near_emotion(answers(texts, torn), space.distances), strict=True))
    assert min(worth, key=worth.__getitem__) in ("amusement", "contentment", "excitement")
    assert worth["fear"] == pytest.approx(worth["anger"])
    assert worth["disgust"] > 0.8 > worth["awe"]
    assert near_emotion(answers([GOOD, f'{{"emotion": "{ALL}"}}', ""]), space.distances).tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": {"awe": [0.1, 0.2]}}, r"anchors\.points: found awe; expected amusement, awe"),
        ({"source": " "}, r"anchors\.source: found an empty text"),
        (
            {"points": {str(e): [0.1] * (1 + (e == "fear")) for e in EMOTIONS}},
            r"points have \[1, 2\] coordinates; expected as many",
        ),
        ({"points": {str(e): [0.1, 0.2] for e in EMOTIONS}}, "all eight points are the same"),
    ],
)
def test_anchors_say_what_is_wrong(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Anchors(**(shipped_anchors() | change))


def test_embeddings_give_mean_directions_of_the_training_split(tmp_path: Path) -> None:
    vectors = np.eye(9)[:8] * 3
    rows = [(str(e), "train", vectors[n].tolist()) for n, e in enumerate(EMOTIONS)]
    rows += [("awe", "train", (vectors[1] + np.eye(9)[8]).tolist()), ("awe", "test", vectors[4].tolist())]
    columns = dict(zip(("emotion", "split", "des"), map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pa.table(columns), tmp_path / "des.parquet")
    space = read_embeddings(tmp_path / "des.parquet")
    assert np.allclose(np.linalg.norm(space.points, axis=1), 1)
    assert space.points[1, 4] == 0
    assert space.points[1, 8] > 0
    parquet.write_table(pa.table({"emotion": ["awe"], "des": [[1.0, 2.0]]}), tmp_path / "few.parquet")
    with pytest.raises(InputError, match="no embedding of the split train is of amusement, contentment"):
        read_embeddings(tmp_path / "few.parquet")


def test_equal_points_are_no_space() -> None:
    assert EmotionSpace("made", np.arange(8.0)[:, None]).distances[0, 7] == 1


# DSPO


def test_a_large_box_is_worth_less_than_a_small_one() -> None:
    assert covered_fall(0.8, 0.3, 0.1) == pytest.approx(0.45)
    assert covered_fall(0.8, 0.3, 1.0) == 0
    assert covered_fall(0.3, 0.8, 0.1) < 0


@pytest.fixture
def words(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    made = [f"word{n}\t" + "\t".join(f"{x:.3f}" for x in draw.random(3)) for n in range(40)]
    near = ["awe\t0.8\t0.5\t0.4", "lake\t0.8\t0.4\t0.4", "calm\t0.8\t0.2\t0.4", "wonder\t0.9\t0.6\t0.4", "grim\t0.1\t0.6\t0.4"]
    path = tmp_path / "words.tsv"
    path.write_text("\n".join(["Word\tValence\tArousal\tDominance", *near, *made]), encoding="utf-8")
    return path


def test_candidates_that_surround_what_is_annotated(words: Path) -> None:
    lexicon = read_lexicon(words)

    def worth(*said: str) -> float:
        text = json.dumps({"bbox_2d": [[1, 1, 9, 9]], "words": said, "emotion": "awe", "intensity": 5})
        return float(divergence(answers([text], objective="candidates"), lexicon, 1.0)[0])

    assert worth("awe", "calm", "wonder") > worth("awe", "awe", "awe") == 0
    assert worth("awe", "calm", "wonder") > worth("grim", "word1", "word2") * 0.5
    assert worth("nonsense", "gibberish") == 0
    assert 0 <= worth("awe", "calm", "wonder", "lake", "grim") < 1
    assert candidate_words('{"words": ["Awe", "awe ", 3, "calm"]}') == ["awe", "calm"]
    assert candidate_words('{"words": "awe"}') == candidate_words("no") == []
    five = '{"bbox_2d": [[1, 1, 9, 9]], "words": ["a", "b", "c", "d", "e"], "emotion": "awe", "intensity": 5}'
    assert well_formed(answers([five, five.replace(', "e"', "")], objective="candidates")).tolist() == [1.0, 0.0]


def test_a_lexicon_says_what_is_wrong(tmp_path: Path, words: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("word,valence\na,1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.csv:1: no column 'arousal'; found word, valence"):
        read_lexicon(bad)
    bad.write_text(words.read_text(encoding="utf-8").replace("0.9\t0.6", "high\t0.6"), encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.csv:5: found 'wonder"):
        read_lexicon(bad)


# Collapse


def test_a_constant_answer_is_known_as_one() -> None:
    truth = np.array([5.0, 1, 1, 1, 0, 0, 0, 0])
    assert constant_label(truth) == pytest.approx(5 / 8)
    assert spread_of_labels(np.array([9.0, 0, 0, 0, 0, 0, 0, 0])) == 0
    assert spread_of_labels(np.ones(8)) == pytest.approx(1)
    assert spread_of_labels(np.zeros(8)) == 0
