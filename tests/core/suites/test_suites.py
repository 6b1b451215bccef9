"""Published files of suites: what is read of each layout, and what is refused with its place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from emo_lightning.core.errors import MissingFileError
from emo_lightning.core.records import Rating
from emo_lightning.core.suites import (
    SUITE_READERS,
    BadRow,
    SuiteError,
    SuiteItem,
    find_image,
    possible_paths,
    read_results,
    read_suite,
)
from tests.core.suites.trees import assessed, mvei, pair_row, vecbench_line


def _write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_statements(tmp_path: Path) -> None:
    file = _write(tmp_path / "Std-MVEI.json", {"7": mvei(verdict="Incorrect"), "8": {**mvei(), "generations": ["A", "B"]}})
    one, two = read_suite("mvei", file)
    assert one == SuiteItem(
        id="7",
        task="scene context",
        images=("../benchmarks/MVEI/images/a.jpg",),
        prompt="<image>Is the statement correct?",
        candidates=("correct", "incorrect"),
        truth="incorrect",
        extra={"statement_meta": {"class": "scene context"}, "emotion": "awe"},
    )
    assert two.replies == ("A", "B")


def test_both_files_of_vecbench_say_the_same(tmp_path: Path) -> None:
    words = ["sad", "awe"]
    lines = vecbench_line("Artphoto/a.jpg", "Artphoto-8", words, "sad", response="<answer>sad</answer>") + "\n"
    lines += vecbench_line("Unbiased/b.jpg", "UnbaisedEmo-6", ["love", "joy"], "love", id="u1")
    first, second = read_suite("vecbench", _write(tmp_path / "test_8k.jsonl", lines))
    assert (first.id, first.images, first.prompt, first.replies) == (
        "1",
        ("/data/Artphoto/a.jpg",),
        "Which emotion?",
        ("<answer>sad</answer>",),
    )
    assert (second.id, second.task, second.candidates) == ("u1", "UnbiasedEmo-6", ("love", "joy"))
    std = {
        "1": {
            "image_path": ["/data/Artphoto/a.jpg"],
            "prompt": "Which emotion?",
            "ground_truth": "sad",
            "other_info": {"task": "Artphoto-8", "candidates": words},
            "generations": ["<answer>sad</answer>"],
        }
    }
    assert read_suite("vecbench", _write(tmp_path / "Std-VECBench.json", std)) == [first]


def test_questions_with_and_without_results(tmp_path: Path) -> None:
    results = {"response(gpt-4o)": "B: It's fear", "eval_result(gpt-4o)": 1, "if_invalid(gpt-4o)": 0}
    opened = {
        key: value for key, value in pair_row(9, question_type="Open_ended").items() if key not in ("options", "correct_answer")
    }
    first, second, single = read_suite(
        "eemo_bench",
        _write(
            tmp_path / "questions.json",
            [pair_row(0, **results), opened, {**pair_row(3), "image_url": "4.jpg", "options": {"B": "Fear"}}],
        ),
    )
    assert (first.images, first.task, first.truth) == (("579.jpg", "100.jpg"), "What/How", "B")
    assert first.options == {"A": "Neutral", "B": "It's fear"}
    assert first.prompt is not None
    assert first.prompt.endswith("common to them? Choose between one of the following options: A:Neutral B:It's fear")
    assert (first.replies, first.judged, first.extra["model"]) == (
        ("B: It's fear",),
        {"eval_result": 1, "if_invalid": 0},
        "gpt-4o",
    )
    assert (second.truth, second.options, second.prompt and second.prompt[-34:]) == (
        None,
        {},
        "[Which emotion is common to them?]",
    )
    assert single.images == ("4.jpg",)
    std = {
        "image_path": ["../benchmarks/a.jpg", "../benchmarks/b.jpg"],
        "prompt": "Which? {'A': 'Neutral', 'B': 'Fear'}",
        "ground_truth": "B",
        "other_info": {"question_type": "Yes-or-No"},
    }
    (carried,) = read_suite("eemo_bench", _write(tmp_path / "std.json", {"p": std}))
    assert (carried.task, carried.options, len(carried.images)) == ("Yes-or-No", {"A": "Neutral", "B": "Fear"}, 2)


def test_what_is_known_of_an_image_and_its_questions(tmp_path: Path) -> None:
    rows = read_suite("eemo_bench", _write(tmp_path / "truth.json", [assessed()]))
    assert [(row.id, row.task, row.truth) for row in rows] == [
        ("1.jpg/assessment", "assessment", None),
        ("1.jpg/judge", "Yes-or-No", "B"),
        ("1.jpg/choose", "What/How", "A"),
        ("1.jpg/open_ended", "Open_ended", None),
    ]
    assert rows[0].ratings["arousal"] == Rating(mean=4.25, std=1.125, low=1, high=9)
    assert list(rows[0].scored_emotions.items()) == [("joy", 39), ("neutral", 37), ("surprise", 33)]


def std_vecbench(truth: str, candidates: object) -> dict[str, object]:
    other = {"task": "FI-8", "candidates": candidates}
    return {"image_path": "a.jpg", "prompt": "Which emotion?", "ground_truth": truth, "other_info": other}


def std_eemo(
    truth: str = "B", prompt: str = "Which? {'A': 'Neutral', 'B': 'Fear'}", images: Sequence[str] = ("a.jpg",)
) -> dict[str, object]:
    return {"image_path": list(images), "prompt": prompt, "ground_truth": truth, "other_info": {"question_type": "What/How"}}


def _with(**more: object) -> str:
    return json.dumps(json.loads(vecbench_line("a.jpg", "FI-8", ["awe"], "awe")) | more) + "\n"


BAD = [
    ("mvei", {"a": mvei(verdict="true")}, "[a]: ground_truth 'true' is none of the candidates correct, incorrect"),
    ("mvei", {"a": mvei(kind="mood")}, "[a]: other_info.statement_meta.class is 'mood'; expected one of"),
    ("mvei", {"a": {"image": "a.jpg"}}, "[a]: no key 'image_path'; found: image"),
    ("mvei", {"a": {**mvei(), "image_path": ["a", "b"]}}, "[a]: shows 2 images; expected one"),
    ("mvei", [], "found a list; expected an object of id"),
    ("mvei", {}, "no items of mvei"),
    ("mvei", {"a": {**mvei(), "generations": [None]}}, "[a]: key 'generations' is '[None]'"),
    ("vecbench", vecbench_line("a.jpg", "FI-9", ["awe"], "awe"), ":1: task is 'FI-9'; expected one of EmoSet-8"),
    ("vecbench", vecbench_line("a.jpg", "FI-8", [], "joy"), ":1: key 'candidates' is '[]'; expected a text or a list of texts"),
    ("vecbench", '{"conversations": [{"role": "user"}], "task": "FI-8"}', ":1: no key 'content'; found: role"),
    ("vecbench", vecbench_line("a.jpg", "FI-8", ["awe"], "awe", id="x") * 2, ":2: id 'x' stands there twice"),
    (
        "vecbench",
        vecbench_line("a.jpg", "FI-8", ["awe", "fear"], "joy"),
        ":1: ground_truth 'joy' is none of the candidates awe, fear",
    ),
    ("vecbench", vecbench_line("a.jpg", "FI-8", ["awe", "fear", "Awe "], "fear"), ":1: candidates hold 'Awe ' twice"),
    ("vecbench", _with(candidates="awe, fear"), ":1: key 'candidates' is 'awe, fear'; expected a list of texts"),
    ("vecbench", _with(candidates=None), ":1: key 'candidates' is null; expected a value"),
    ("vecbench", {"a": std_vecbench("joy", ["awe", "fear"])}, "[a]: ground_truth 'joy' is none of the candidates awe, fear"),
    ("vecbench", {"a": std_vecbench("awe", ["awe", "awe"])}, "[a]: candidates hold 'awe' twice"),
    ("vecbench", {"a": std_vecbench("awe", "awe, fear")}, "[a]: key 'candidates' is 'awe, fear'; expected a list of texts"),
    ("eemo_bench", {"a": std_eemo(truth="C")}, "[a]: ground_truth 'C' is none of the options A, B"),
    ("eemo_bench", {"a": std_eemo(truth="E", prompt="Which?")}, "[a]: ground_truth 'E' is none of the options A, B, C, D"),
    ("eemo_bench", {"a": std_eemo(images=["a.jpg", "b.jpg", "c.jpg"])}, "[a]: shows 3 images; expected one or two"),
    ("eemo_bench", [pair_row(0, options=None)], "[0]: key 'options' is null; expected a value"),
    ("eemo_bench", [assessed(judge_answer="C")], "[0]: judge_answer 'C' is none of the options A, B"),
    ("eemo_bench", [pair_row(0, options="__import__('os')")], "[0]: options are \"__import__('os')\""),
    ("eemo_bench", [pair_row(0, correct_answer="Q")], "[0]: correct_answer 'Q' is none of the options A, B"),
    ("eemo_bench", [pair_row(0), pair_row(0)], "[1]: id '0' stands there twice"),
    ("eemo_bench", [assessed(Valence=[9.5, 1])], "[0]: the mean of Valence is '9.5'; expected a number from 1 to 9"),
    (
        "eemo_bench",
        [assessed(emotion_list=[["love", 3]])],
        "[0]: emotion_list holds ['love', 3]; expected pairs of one of anger",
    ),
    ("eemo_bench", [], "found an empty list; expected a list of questions or images"),
]


@pytest.mark.parametrize(("suite", "content", "message"), BAD)
def test_what_is_not_as_published_is_refused_with_its_place(suite: str, content: object, message: str, tmp_path: Path) -> None:
    file = _write(tmp_path / ("rows.jsonl" if isinstance(content, str) else "rows.json"), content)
    with pytest.raises(SuiteError) as refused:
        read_suite(suite, file)
    assert message in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_truth_is_spelt_as_its_candidate_and_letters_may_share_a_text(tmp_path: Path) -> None:
    line = vecbench_line("a.jpg", "FI-8", ["Awe", "Fear"], " fear")
    (asked,) = read_suite("vecbench", _write(tmp_path / "rows.jsonl", line))
    assert asked.truth == "Fear"
    (asked,) = read_suite("eemo_bench", _write(tmp_path / "std.json", {"a": std_eemo(prompt="Which one, A to D?", truth="D")}))
    assert (asked.truth, asked.options, asked.candidates) == ("D", {}, ())
    # As one question of EEmo-Bench's own file has it.
    (asked,) = read_suite("eemo_bench", _write(tmp_path / "twice.json", [pair_row(0, options="{'A': 'Joy', 'B': 'Joy'}")]))
    assert asked.options == {"A": "Joy", "B": "Joy"}


def test_rows_of_a_runner_that_failed_are_told_from_questions(tmp_path: Path) -> None:
    line = vecbench_line("a.jpg", "FI-8", ["awe", "fear"], "awe", response="awe")
    failed = json.dumps({"original_data": json.loads(line), "error": "CUDA out of memory"}) + "\n"
    file = _write(tmp_path / "0.jsonl", failed + line)
    items, lost = read_results("vecbench", file)
    assert ([item.id for item in items], list(map(str, lost))) == (
        ["2"],
        [f"{file}:1: holds an error in the place of a reply: CUDA out of memory"],
    )
    assert read_suite("vecbench", file) == items
    with pytest.raises(SuiteError, match="no items of vecbench: all 1 rows hold an error in the place of a reply"):
        read_suite("vecbench", _write(tmp_path / "error.jsonl", failed))


def test_readers_go_on_behind_a_bad_row(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.json", {"a": mvei(verdict="no"), "b": mvei()})
    assert [isinstance(row, BadRow) for row in SUITE_READERS["mvei"](file)] == [True, False]
    with pytest.raises(MissingFileError):
        read_suite("mvei", tmp_path / "none.json")
    with pytest.raises(SuiteError, match="unknown suite 'aica'"):
        read_suite("aica", file)


def test_images_are_found_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "MVEI" / "images").mkdir(parents=True)
    (tmp_path / "MVEI" / "images" / "a.jpg").write_bytes(b"")
    assert find_image(tmp_path, "../benchmarks/MVEI/images/a.jpg") == (tmp_path / "MVEI/images/a.jpg").resolve()
    assert find_image(tmp_path / "MVEI", "images\\a.jpg") == find_image(tmp_path / "MVEI", "a.jpg") is not None
    assert find_image(tmp_path / "MVEI" / "images", "../../../MVEI/b.jpg") is None
    assert possible_paths("file:///data/../x/a.jpg") == ("a.jpg",)
    assert possible_paths("..") == ()
