"""Prompts, targets and the way back: what is asked depends on keys alone, and a perfect reply gives the labels back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo_lightning.core.records import EMOTIONS, GroundedObject, Prediction, Record
from emo_lightning.core.replies import unreadable_reasons
from emo_lightning.data.chat import KEY_GUIDE, OBJECTIVES, merge_predictions, objective, parse_answer, prompt, target_answer
from emo_lightning.models.families import AbsolutePixels, BoxCodec, Relative1000, family_of

CODEC = family_of("qwen2_5_vl").codec
TEXT = st.text(min_size=1, max_size=40)


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record, with any labels missing."""
    width, height = draw(st.integers(16, 2000)), draw(st.integers(16, 2000))

    def box() -> tuple[float, float, float, float]:
        x1, y1 = draw(st.floats(0, width - 8)), draw(st.floats(0, height - 8))
        return x1, y1, draw(st.floats(x1 + 4, width)), draw(st.floats(y1 + 4, height))

    objects = [
        GroundedObject(phrase=draw(TEXT), bbox=box(), score=1.0, primary=draw(st.booleans()))
        for _ in range(draw(st.integers(0, 3)))
    ]
    words = {key: draw(st.none() | TEXT) for key in ("description", "background", "attribute", "subject")}
    return Record.model_validate(
        {
            "id": "r",
            "source": "s",
            "width": width,
            "height": height,
            "sha256": "0" * 64,
            "split": "train",
            "objects": objects,
            "emotion": draw(st.none() | st.sampled_from(EMOTIONS)),
            "intensity": draw(st.none() | st.integers(1, 10)),
            **words,
        }
    )


def listed(prediction: Prediction, key: str) -> list[object]:
    """A list of the provenance."""
    found = prediction.provenance[key]
    assert isinstance(found, list)
    return found


def parsed(text: str, *, original: tuple[int, int] = (200, 100), resized: tuple[int, int] = (100, 50)) -> Prediction:
    """A prediction of an image that is seen in half its size."""
    return parse_answer(text, id="r", original=original, resized=resized, codec=CODEC)


@settings(max_examples=150, deadline=None)
@given(records(), st.integers(2, 40), st.integers(2, 40), st.sampled_from([AbsolutePixels(), Relative1000()]))
def test_a_perfect_reply_gives_the_labels_back(record: Record, columns: int, rows: int, codec: BoxCodec) -> None:
    resized = (28 * columns, 28 * rows)
    keys = OBJECTIVES["explain"].available(record)
    text = target_answer(keys, record, codec, resized)
    assert list(json.loads(text)) == list(keys)
    said = parse_answer(text, id=record.id, original=(record.width, record.height), resized=resized, codec=codec)
    for key in ("description", "background", "attribute", "subject", "emotion", "intensity"):
        assert getattr(said, key) == getattr(record, key)
    assert "problems" not in said.provenance
    assert said.provenance["reply"] == text
    truth = sorted((o.bbox for o in record.primary_objects), key=lambda b: (b[2] - b[0]) * (b[3] - b[1]), reverse=True)
    assert len(said.objects) == len(truth)
    frame = resized if isinstance(codec, AbsolutePixels) else (1000, 1000)
    for found, box in zip(said.objects, truth, strict=True):
        for axis in (0, 1):
            unit = (record.width, record.height)[axis] / frame[axis]
            # Half a unit of the model's frame; a side below one unit is widened to one.
            room = 0.5 if (box[axis + 2] - box[axis]) / unit >= 1 else 1.0
            assert abs(found.bbox[axis] - box[axis]) <= room * unit + 1e-6
            assert abs(found.bbox[axis + 2] - box[axis + 2]) <= room * unit + 1e-6


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5), max_leaves=12)
REPLIES = st.dictionaries(st.sampled_from([*KEY_GUIDE, "x"]), VALUES, max_size=7).map(json.dumps)


@settings(max_examples=200, deadline=None)
@given(REPLIES | VALUES.map(json.dumps) | st.text(max_size=80))
def test_no_reply_breaks_the_parser(reply: str) -> None:
    said = parsed(reply)
    assert said.provenance["reply"] == reply
    for item in said.objects:
        x1, y1, x2, y2 = item.bbox
        assert max(x1, 0) < min(x2, 200)
        assert max(y1, 0) < min(y2, 100)


BOX = [[10.0, 5.0, 60.0, 45.0]]


@pytest.mark.parametrize(
    "reply",
    [
        '{"bbox_2d": [[5, 2.5, 30, 22.5]]}',
        '{"bbox_2d": [5, 2.5, 30, 22.5]}',
        '```json\n{"bbox_2d": [[5, 2.5, 30, 22.5]]}\n```',
        'Here it is:\n```\n{"bbox_2d": [[5, 2.5, 30, 22.5]]}\n```\nas asked.',
        '  {"bbox_2d": [[5, 2.5, 30, 22.5]]}\n',
    ],
)
def test_fences_and_flat_boxes(reply: str) -> None:
    said = parsed(reply)
    assert [list(o.bbox) for o in said.objects] == BOX
    assert "problems" not in said.provenance


AWE = '{"emotion": "awe", "intensity": 7}'
DRAFT = '```json\n{"emotion": "fear", "intensity": 1}\n```'


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>\nFirst: {DRAFT}\n</think>\n\n{AWE}",
        f"First: {DRAFT}\n</think>\n{AWE}",
        f"<think>{DRAFT}</think>```json\n{AWE}\n```",
        f"◁think▷{DRAFT}◁/think▷{AWE}",
        f'<think type="short">{DRAFT}</think >{AWE} <think>{DRAFT}',
        f"<think>a <think>{DRAFT}</think> {DRAFT} </think>{AWE}",
        f'It says {{"so</think>{AWE}',
        f"{AWE}<think>Or {DRAFT}?</think>",
        f"{DRAFT} On a second look: {AWE}",
        f"{AWE}\nSo it is [1] {{sic}}, see {{}}.",
        f'{AWE} {{"emotion": "fe',
        AWE.replace("emotion", "Emotion").replace("intensity", "INTENSITY"),
        f'{{"answer": {AWE}}}',
        f"[{AWE}]",
        f'{{"note": "of the image", "Result": [{AWE}]}}',
        AWE.replace("awe", "awe").replace(", ", ",\n"),
    ],
)
def test_an_answer_is_found_wherever_it_stands(reply: str) -> None:
    said = parsed(reply)
    assert (said.emotion, said.intensity) == ("awe", 7)
    assert said.provenance == {"reply": reply}


def test_text_with_line_breaks_and_tags_in_it_is_as_it_was_written() -> None:
    assert parsed('{"description": "a\nb"}').description == "a\nb"
    assert parsed('{"description": "<think>a</think>b"}').description == "<think>a</think>b"
    # Words around the JSON change nothing in it, nor does thinking before it.
    for said in ("a <think>x</think> sign", "the tag <think> on a sign", "the tag </think>, painted", "```json, in chalk"):
        for reply in (f'Here: {{"description": "{said}"}}', f'<think>{DRAFT}</think>\n{{"description": "{said}"}} So it is.'):
            assert parsed(reply).description == said


@pytest.mark.parametrize(
    ("reply", "phrases"),
    [
        ('```json\n[\n\t{"bbox_2d": [5, 2.5, 30, 22.5], "label": "dog"}\n]\n```', ["dog"]),
        ('{"bbox_2d": [5, 2.5, 30, 22.5], "label": "dog"}', ["dog"]),
        ('{"objects": [{"bbox_2d": [5, 2.5, 30, 22.5], "label": "dog"}]}', ["dog"]),
        ('{"bbox_2d": [{"bbox_2d": [5, 2.5, 30, 22.5], "label": "dog"}], "subject": "cat"}', ["dog"]),
        ('{"subject": "cat"}\n[{"bbox_2d": [5, 2.5, 30, 22.5]}]', ["cat"]),
        ('[{"bbox_2d": [5, 2.5, 30, 22.5], "label": "a"}, {"bbox_2d": [5, 2.5, 30, 22.5], "label": "b"}]', ["a", "b"]),
    ],
)
def test_qwens_own_list_of_boxes(reply: str, phrases: list[str]) -> None:
    said = parsed(reply)
    assert [(o.phrase, list(o.bbox)) for o in said.objects] == [(phrase, BOX[0]) for phrase in phrases]
    assert "problems" not in said.provenance


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (" ", "empty"),
        (f"<think>It is {AWE}, or", "thinking only"),
        (f"<think>It is\n```json\n{AWE}\n```", "thinking only"),
        (f'<think>{DRAFT}</think>{{"emotion": "aw', "cut off"),
        (f"{DRAFT}</think>I do not know.", "no JSON"),
        ('{"emotion": "awe", "bbox_2d": [[1, 2', "cut off"),
        ('{"objects": [{"bbox_2d": [1, 2, 3, 4]}], "emotion": "aw', "cut off"),
        ("I see a happy dog.", "no JSON"),
        ('{"objects": [{"bbox_2d": [1, 2, 3, 4]}], "x": awe}', "no JSON"),
        ("[1, 2]", "no object"),
        ('{"mood": "awe"}', "other keys"),
        ('{"emotion": "awe", "Emotion": "fear"}', "ambiguous"),
        ('{"emotion": "awe", "emotion": "fear"}', "ambiguous"),
        (f'{{"first": {AWE}, "second": {AWE}}}', "ambiguous"),
        ("[" * 500 + "]" * 500, "no JSON"),
    ],
)
def test_why_an_answer_cannot_be_read(reply: str, reason: str) -> None:
    said = parsed(reply)
    assert (said.emotion, said.objects) == (None, [])
    assert said.provenance["unreadable"] == reason
    assert len(listed(said, "problems")) == 1
    both = merge_predictions([parsed(AWE), said, said])
    assert unreadable_reasons(both.provenance) == [reason, reason]


@pytest.mark.parametrize(
    ("reply", "problems"),
    [
        ('{"emotion": "awe", "emotion": "fear", "intensity": 7, "subject": "dog"}', ["two values of emotion"]),
        ('{"emotion": "awe", "Emotion": "fear", "intensity": 7, "subject": "dog"}', ["two values of emotion"]),
        (
            '{"answer": {"emotion": "awe", "emotion": "awe", "emotion": 1, "intensity": 7, "subject": "dog"}}',
            ["two values of emotion"],
        ),
        ('{"note": 1, "note": 2, "intensity": 7, "subject": "dog"}', []),
        (
            '{"intensity": 7, "subject": "dog", "bbox_2d": [{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [1, 2, 3, 5]}]}',
            ["bbox_2d holds 'two values', not four numbers"],
        ),
        (
            '{"intensity": 7, "subject": "dog", "bbox_2d": [{"bbox_2d": [9, 9, 1, 1], "label": "a", "label": "b"}]}',
            ["two values of label", "box [9, 9, 1, 1] is empty or turned"],
        ),
        ('{"intensity": 7, "subject": "dog", "bbox_2d": [[1, 2, 3, 4]], "bbox_2d": []}', ["two values of bbox_2d"]),
    ],
)
def test_a_key_with_two_values_costs_that_key_alone(reply: str, problems: list[str]) -> None:
    said = parsed(reply)
    assert (said.emotion, said.intensity, said.subject, said.objects) == (None, 7, "dog", [])
    assert said.provenance.get("problems", []) == problems
    assert "unreadable" not in said.provenance


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("", "not JSON"),
        ("a happy dog", "not JSON"),
        ('{"emotion": "fear"', "not JSON"),
        ("[1, 2]", "JSON list, not an object"),
        ('{"emotion": 3}', "emotion is int, not a string"),
        ('{"intensity": "high"}', "intensity is 'high', not a number"),
        ('{"intensity": true}', "intensity is 'True', not a number"),
        ('{"intensity": NaN}', "intensity is 'nan'"),
        ('{"intensity": 1e999}', "intensity is 'inf'"),
        ('{"intensity": ' + "9" * 400 + "}", "not a number"),
        ('{"intensity": ' + "9" * 5000 + "}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"bbox_2d": [[1, 2, 3]]}', "not four numbers"),
        ('{"bbox_2d": [[1, 2, NaN, 4]]}', "not four numbers"),
        ('{"bbox_2d": [[1, 2, 1e300, 4]]}', "not four numbers"),
        ('{"bbox_2d": [[1, 2, Infinity, 4]]}', "not four numbers"),
        ('{"bbox_2d": [[1, 2, true, 4]]}', "not four numbers"),
        ('{"bbox_2d": "here"}', "not four numbers"),
        ('{"bbox_2d": [[30, 2, 5, 22]]}', "empty or turned"),
        ('{"bbox_2d": [[500, 2, 600, 22]]}', "outside of the image"),
        ('{"bbox_2d": [[5, -9, 60, 0]]}', "outside of the image"),
        ('{"bbox_2d": [[500, 2, 500, 22]]}', "empty or turned"),
    ],
)
def test_unreadable_parts_are_none_and_named(reply: str, problem: str) -> None:
    said = parsed(reply)
    assert (said.emotion, said.intensity, said.objects) == (None, None, [])
    assert any(problem in str(p) for p in listed(said, "problems")), said.provenance
    json.dumps(said.model_dump(mode="json"), allow_nan=False)


def test_one_bad_part_does_not_cost_the_others() -> None:
    said = parsed('{"emotion": "Awe ", "intensity": "x", "bbox_2d": [[1, 2], [5, 2.5, 30, 22.5]], "subject": "dog"}')
    assert said.emotion == "Awe ", "as said: a scorer tells right from nearly right"
    assert said.intensity is None
    assert [(o.phrase, list(o.bbox)) for o in said.objects] == [("dog", BOX[0])]
    assert len(listed(said, "problems")) == 2


def test_half_a_surrogate_pair_can_be_written() -> None:
    said = parsed('{"emotion": "\\ud83d awe", "subject": "\\ud83d\\ude00"}')
    assert (said.emotion, said.subject) == ("? awe", "\U0001f600")
    json.dumps(said.model_dump(mode="json"), ensure_ascii=False).encode()


def test_missing_keys_are_no_problem() -> None:
    assert parsed("{}").provenance == {"reply": "{}"}


@pytest.mark.parametrize(
    ("codec", "spoken"), [(AbsolutePixels(), [-10, 2.5, 130, 60]), (Relative1000(), [-100, 50, 1300, 1200])]
)
def test_a_box_that_leaves_the_image_stays_as_it_was_said(codec: BoxCodec, spoken: list[float]) -> None:
    reply = json.dumps({"bbox_2d": [spoken]})
    said = parse_answer(reply, id="r", original=(200, 100), resized=(100, 50), codec=codec)
    assert [o.bbox for o in said.objects] == [(-20, 5, 260, 120)]
    assert said.provenance == {"reply": reply}


@pytest.mark.parametrize(
    "reply",
    [
        '{"emotion": "awe"}\n{"intensity": 7}',
        '```json\n{"emotion": "awe"}\n```\nand\n```json\n{"Intensity": 7, "x": 1}\n```',
        '{"note": 1} {"answer": {"intensity": 7}} {"emotion": "awe"} {"note": 2}',
        '[{"emotion": "awe"}, {"intensity": 7}]',
        '{"first": {"emotion": "awe"}, "second": {"intensity": 7}}',
        '{"emotion": "fear", "Emotion": "sadness"} {"intensity": 7, "emotion": "awe"}',
        f'{DRAFT} {{"intensity": 2}} {AWE}',
    ],
)
def test_an_answer_in_parts_is_read_where_no_two_share_a_key(reply: str) -> None:
    said = parsed(reply)
    assert (said.emotion, said.intensity) == ("awe", 7)
    assert said.provenance == {"reply": reply}


def test_of_a_draft_and_an_answer_the_answer_alone_is_read() -> None:
    said = parsed(f'{DRAFT} {{"emotion": "awe"}}')
    assert (said.emotion, said.intensity) == ("awe", None), "the 1 was said of another emotion"
    two = parsed('[{"emotion": "awe"}, {"emotion": "fear"}]')
    assert (two.emotion, two.provenance["unreadable"]) == (None, "no object")


def test_fractional_intensity_is_kept() -> None:
    assert parsed('{"intensity": 7.5}').intensity == 7.5


def test_merge_takes_the_first_value() -> None:
    first, second = '{"subject": "dog", "emotion": "awe"}', '{"emotion": "fear", "intensity": 3, "bbox_2d": [5, 2.5, 30, 22.5]}'
    merged = merge_predictions([parsed(first), parsed(second)])
    assert (merged.subject, merged.emotion, merged.intensity) == ("dog", "awe", 3)
    assert [list(o.bbox) for o in merged.objects] == BOX
    assert len(listed(merged, "replies")) == 2


def test_prompts_ask_for_keys_and_round_one_names_no_emotion() -> None:
    for o in OBJECTIVES.values():
        assert all(f"{key} (" in prompt(o.keys) for key in o.keys)
    asked = prompt(OBJECTIVES["attributes"].keys)
    assert not any(str(emotion) in asked for emotion in EMOTIONS)
    assert "emotion" not in asked
    assert set(OBJECTIVES["emotion"].keys) == {"emotion", "intensity"}


def test_unknown_objective_lists_the_known() -> None:
    with pytest.raises(ValueError, match="unknown objective 'emotions'; allowed: attributes, emotion"):
        objective("emotions")
