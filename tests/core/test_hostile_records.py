"""What a record and a prediction claim is checked when they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo_lightning.core.foreign import MAX_LINE_BYTES
from emo_lightning.core.records import Prediction, Record, SchemaError, read_jsonl, write_jsonl

VALID: dict[str, object] = {"id": "a", "source": "s", "width": 40, "height": 30, "sha256": "0" * 64, "split": "train"}
BOX = {"phrase": "dog", "bbox": [1, 2, 3, 4], "score": 0.5}


def read(**changes: object) -> Record:
    """The valid record with changes."""
    return Record.from_json(json.dumps({**VALID, **changes}), "a.json")


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 50_000, "height": 50_000},
        {"width": 2**62},
        {"width": True},
        {"width": "40"},
        {"height": 30.5},
        {"confidence": True},
        {"confidence": "0.5"},
        {"intensity": True},
        {"intensity": "7"},
        {"emotion_scores": {"awe": 1.5, "fear": -0.5}},
        {"emotion_scores": {"awe": True}},
        {"des": [True]},
        {"des": ["1"]},
        {"objects": [{**BOX, "bbox": [False, 2, 3, 4]}]},
        {"objects": [{**BOX, "bbox": ["1", 2, 3, 4]}]},
        {"objects": [{**BOX, "score": True}]},
        {"objects": [{**BOX, "mask": {"size": [50_000, 50_000], "counts": "a"}}]},
        {"objects": [{**BOX, "mask": {"size": [0, 0], "counts": "a"}}]},
        {"objects": [{**BOX, "mask": {"size": [True, 40], "counts": "a"}}]},
        *(
            {key: value}
            for key in ("id", "source", "split")
            for value in ("../a", "a/b", "/etc", "a\\b", "a\x1b[2J", "a\n", "\u202ea", "a\x00")
        ),
        # The split alone may be empty: before an export an image is in none.
        {"id": ""},
        {"source": ""},
        {"id": "a.b"},
        {"id": "x" * 300},
    ],
    ids=str,
)
def test_a_record_that_claims_what_cannot_be_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(SchemaError, match=r"^a\.json: "):
        read(**changes)


@pytest.mark.parametrize(
    "text",
    [
        '{"emotion_scores": {"awe": NaN, "fear": -5}}',
        '{"confidence": 1e999}',
        '{"des": [Infinity]}',
        '{"width": ' + "9" * 5000 + "}",
        '{"provenance": ' + '{"a":' * 100 + "1" + "}" * 101,
        '{"description": "\\ud83d"}',
        '{"width": 1, "width": 2}',
    ],
)
def test_json_that_no_record_can_be_is_refused_by_the_decoder(text: str) -> None:
    whole = json.dumps(VALID)[:-1] + ", " + text[1:]
    with pytest.raises(SchemaError, match=r"^a\.json: "):
        Record.from_json(whole, "a.json")


def test_numbers_of_predictions_are_numbers_and_their_halves_of_characters_are_marked(tmp_path: Path) -> None:
    for changes in ({"intensity": True}, {"intensity": "7"}, {"confidence": True}, {"objects": [{"bbox": [True, 1, 2, 3]}]}):
        with pytest.raises(SchemaError, match=r"expected a (finite )?number"):
            Prediction.from_json(json.dumps({"id": "a", **changes}), "p.jsonl:1")
    (tmp_path / "p.jsonl").write_text('{"id": "a", "description": "cut \\ud83d"}\n')
    found = list(read_jsonl(tmp_path / "p.jsonl", Prediction))
    assert found[0].description == "cut \ufffd"
    write_jsonl(tmp_path / "q.jsonl", found)
    assert list(read_jsonl(tmp_path / "q.jsonl", Prediction)) == found


def test_a_line_without_an_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / "p.jsonl", "wb") as file:
        file.truncate(MAX_LINE_BYTES * 4)
    with pytest.raises(SchemaError, match=r"p\.jsonl:1: a line of more than"):
        list(read_jsonl(tmp_path / "p.jsonl", Prediction))


def test_a_record_has_no_million_values() -> None:
    """Of each that is unknown or wrong there would be a complaint in memory."""
    for text in ("{" + ",".join(f'"{n}":0' for n in range(200_002)) + "}", '{"objects": [' + "{}," * 200_001 + "{}]}"):
        for kind in (Record, Prediction):
            with pytest.raises(SchemaError, match=r"^f: 200,001 values; at most 200,000 are read as one record"):
                kind.from_json(text.encode(), "f")
