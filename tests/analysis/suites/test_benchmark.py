"""Every scorer's metrics on made-up replies: the published ones where they follow from counts, and how the scorers differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import f1_score

from emo_lightning.analysis.suites.asked import SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.benchmark import Benchmark, ScorerResult, benchmark
from emo_lightning.analysis.suites.published import published
from emo_lightning.analysis.suites.questions import one_of_each, read_questions
from emo_lightning.analysis.suites.replies import line_of, read_replies
from emo_lightning.core.errors import InputError
from emo_lightning.report.tables.benchmark import benchmark_page
from tests.analysis.suites.given import EIGHT, EMOCALIBER, eemo, mvei, vecbench
from tests.core.suites.trees import assessed, pair_row, vecbench_line
from tests.core.suites.trees import mvei as mvei_row


def values(found: ScorerResult) -> dict[str, float | None]:
    """Key -> value, to two digits."""
    return {key: None if one["value"] is None else round(one["value"], 2) for key, one in found["metrics"].items()}


@pytest.fixture(scope="module")
def caliber() -> tuple[list[SuiteQuestion], dict[str, SuiteReply], Benchmark]:
    """Replies with as many right answers as EmoCaliber's table says, and the benchmark of them."""
    questions = vecbench({task: count for task, (_, count) in EMOCALIBER.items()})
    left = {task: round(accuracy * count / 100) for task, (accuracy, count) in EMOCALIBER.items()}
    replies = {}
    for asked in questions:
        right = left[asked.task] > 0
        left[asked.task] -= right
        word = asked.truth if right else "anger"
        replies[asked.id] = SuiteReply(
            f"<think>amusement?</think><answer>{word}</answer><confidence>{0.8 if right else 0.6}</confidence>"
        )
    return questions, replies, benchmark("vecbench", questions, {"made": replies}, resamples=40)


def test_one_file_of_replies_has_two_published_figures_out_of_the_domain(
    caliber: tuple[list[SuiteQuestion], dict[str, SuiteReply], Benchmark],
) -> None:
    scorers = caliber[2]["arms"]["made"]["scorers"]
    emocaliber, emobserver = values(scorers["EmoCaliber"]), values(scorers["EmObserver"])
    for task, (accuracy, _) in EMOCALIBER.items():
        assert emocaliber[task] == emobserver[task] == accuracy
    # EmoCaliber's README pools, its paper takes the mean of tasks.
    tables = {table.scorer: table.models[0].values for table in published("vecbench")}
    assert emocaliber["ood-ver"] == tables["EmoCaliber"]["ood-ver"] == 59.16
    # Of rounded accuracies: 50.36 of whole ones.
    assert tables["EmoCaliber's paper (means of tasks)"]["ood-ver"] == 50.37 == round((29.26 + 41.94 + 79.90) / 3, 2)
    assert emobserver["ood-ver"] == 50.36
    assert emocaliber["id-ver"] == tables["EmoCaliber"]["id-ver"] == 55.04
    assert emocaliber["id-vsa"] == tables["EmoCaliber"]["id-vsa"] == 81.95
    assert emobserver["total"] == pytest.approx((55.02 + 81.95 + 50.37) / 3, abs=0.01)
    # Its overall searches thoughts too, where the first candidate always stands: the tasks would give 62.79.
    assert emocaliber["overall"] == round(100 * sum(asked.truth == "amusement" for asked in caliber[0]) / 8032, 2)
    right = sum(round(accuracy * count / 100) for accuracy, count in EMOCALIBER.values())
    assert round(100 * right / 8032, 2) == 62.79


def test_f1_and_calibration(caliber: tuple[list[SuiteQuestion], dict[str, SuiteReply], Benchmark]) -> None:
    questions, replies, found = caliber
    scorers = found["arms"]["made"]["scorers"]
    emocaliber, ours = values(scorers["EmoCaliber"]), values(scorers["ours"])
    pairs = [
        (asked.truth, "anger" if "0.6" in replies[asked.id].text else asked.truth)
        for asked in questions
        if asked.task == "FI-8"
    ]
    expected = f1_score([t for t, _ in pairs], [s for _, s in pairs], average="weighted", zero_division=0)
    assert emocaliber["FI-8-f1"] == round(100 * expected, 2)
    # Right ones are sure by .8, wrong ones by .6: both are 59.16 % of 2,035.
    assert emocaliber["ood-ver-ece"] == pytest.approx(0.5916 * 20 + 0.4084 * 60, abs=0.01)
    assert emocaliber["ood-ver-auroc"] == ours["ood-ver-auroc"] == 100.0
    assert emocaliber["ood-ver-coverage"] == 100.0
    interval = scorers["ours"]["metrics"]["FI-8"]
    assert interval["low"] is not None
    assert interval["high"] is not None
    assert interval["low"] < 69.7 < interval["high"]
    assert interval["items"] == 1000


def test_nothing_read_is_unknown_or_the_first_candidate_or_none() -> None:
    questions = vecbench({"FI-8": 10})
    found = benchmark("vecbench", questions, {"mute": {asked.id: SuiteReply("…") for asked in questions}})["arms"]["mute"][
        "scorers"
    ]
    # Every even question's truth is the first candidate.
    assert [values(found[name])["FI-8"] for name in ("EmoCaliber", "EmObserver", "ours")] == [0.0, 50.0, 0.0]
    assert [found[name]["unreadable"] for name in ("EmoCaliber", "EmObserver", "ours")] == [10, None, 10]
    # No mean is of other tasks than its name says.
    assert "id-ver" not in found["ours"]["metrics"]


def test_a_confidence_that_is_no_number_leaves_the_groups() -> None:
    questions = vecbench({"FI-2": 4})
    texts = ["<confidence>1.0</confidence>", "<confidence>0.5</confidence>", "<confidence>sure</confidence>", ""]
    replies = {
        asked.id: SuiteReply(f"<answer>{asked.truth}</answer>{text}") for asked, text in zip(questions, texts, strict=True)
    }
    arm = benchmark("vecbench", questions, {"a": replies})["arms"]["a"]
    emocaliber, ours = values(arm["scorers"]["EmoCaliber"]), values(arm["scorers"]["ours"])
    # A confidence of 1 is right and in no bin; .5 is right: half of .5.
    assert emocaliber["id-vsa-ece"] == 25.0
    assert ours["id-vsa-ece"] == 25.0
    assert (emocaliber["id-vsa-coverage"], ours["id-vsa-coverage"]) == (66.67, 50.0)
    assert arm["notes"] == [
        "EmoCaliber: replies whose confidence is no number, which its second program leaves out of its groups: 1"
    ]


def test_statements() -> None:
    questions = mvei(8)
    texts = ["Correct", "B", "A", "Incorrect", "a nice view", "a nice view", "true", "false"]
    replies = {asked.id: SuiteReply(text) for asked, text in zip(questions, texts, strict=True)}
    found = benchmark("mvei", questions, {"a": replies})["arms"]["a"]["scorers"]
    assert values(found["EmObserver"]) == {
        "total": 62.5,
        "sentiment-polarity": 75.0,
        "scene-context": 50.0,
        "positive": 50.0,
        "given-up": 25.0,
    }
    assert values(found["ours"])["total"] == 75.0
    assert (found["EmObserver"]["unreadable"], found["ours"]["unreadable"]) == (2, 2)


def test_perception_rankings_and_attributes() -> None:
    questions = eemo(6)
    replies: dict[str, SuiteReply] = {}
    for n, asked in enumerate(questions):
        if asked.options:
            # A sentence with capital letters before the right answer.
            replies[asked.id] = SuiteReply(f"Both images, I think: {asked.truth}", verdict=True, invalid=n == 0)
        elif asked.task == "Ranking":
            replies[asked.id] = SuiteReply("<answer>Emotion ranking: joy, surprise, fear</answer>")
        else:
            assert asked.value is not None
            replies[asked.id] = SuiteReply(f"<answer>{asked.task}: {0.1 * (asked.value + (asked.value == 2) * 3):.2f}</answer>")
    replies[questions[1].id] = SuiteReply("no", verdict=False)
    found = benchmark("eemo_bench", questions, {"a": replies})["arms"]["a"]["scorers"]
    authors, observer, logic, ours = (values(found[name]) for name in ("EEmo-Bench", "EmObserver", "EEmo-Logic", "ours"))
    # Five of six of one kind (one is invalid), five of six of the other (one is wrong).
    assert (authors["single-yes-no"], authors["single-what-how"]) == (100.0, 83.33)
    assert authors["single-overall"] == 91.67
    assert authors["overall"] == round(100 * 22 / 23, 2)
    assert (observer["single-yes-no"], observer["single-what-how"]) == (100.0, 0.0)
    assert "overall" not in observer
    assert ours["single-what-how"] == 83.33
    assert ours["overall"] == round(100 * 23 / 24, 2)
    assert logic["ranking"] == ours["ranking"] == 68.33
    expected = spearmanr([1, 5, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]).statistic
    assert logic["arousal-srcc"] == ours["arousal-srcc"] == round(expected, 2)
    assert ours["valence-answered"] == 100.0


def test_collapse_is_the_mean_gain_over_the_base_out_of_the_domain() -> None:
    questions = vecbench({"EmoSet-8": 20, "Abstract-8": 10, "Artphoto-8": 40})
    right = {asked.id: SuiteReply(asked.truth) for asked in questions}
    tuned = right | {
        asked.id: SuiteReply("disgust")
        for n, asked in enumerate(questions)
        if asked.task == "Abstract-8" or (asked.task == "Artphoto-8" and n % 2)
    }
    found = benchmark("vecbench", questions, {"base": right, "tuned": tuned}, bases={"tuned": "base"})
    assert found["out_of_domain"] == ["Abstract-8", "Artphoto-8"]
    for scorer in ("EmoCaliber", "EmObserver", "ours"):
        arm = found["arms"]["tuned"]["scorers"][scorer]
        # The mean of -100 and -50: tasks count alike, whatever their size.
        assert arm["collapse"]["difference"] == -75.0
        assert arm["collapse"]["interval"] is not None
        assert arm["gains"]["EmoSet-8"]["difference"] == 0.0
    other = benchmark(
        "vecbench", questions, {"base": right, "tuned": tuned}, bases={"tuned": "base"}, in_domain=["Abstract-8", "Artphoto-8"]
    )
    assert other["out_of_domain"] == ["EmoSet-8"]
    assert other["arms"]["tuned"]["scorers"]["ours"]["collapse"]["difference"] == 0.0


def test_every_row_names_its_scorer_and_says_where_it_is_from() -> None:
    questions = vecbench({"UnbiasedEmo-6": 6, "Abstract-8": 6, "Artphoto-8": 6})
    replies = {asked.id: SuiteReply(asked.truth) for asked in questions[:-1]} | {"other": SuiteReply("awe")}
    found = benchmark("vecbench", questions, {"mine": replies})
    page = benchmark_page(json.loads(json.dumps(found, allow_nan=False)))
    table = page.tables[0]
    assert table.cell("EmoCaliber-7B/EmoCaliber", "ood-ver") == 59.16
    assert table.cell("EmoCaliber-7B/EmoCaliber's paper (means of tasks)", "collapse") == pytest.approx(2.65)
    assert table.cell("mine/EmObserver", "scorer") == "EmObserver"
    # EmoCaliber groups replies with a confidence alone, and these have none.
    assert "mine/EmoCaliber" not in table.row_keys
    assert page.notes == [
        "mine: questions without a reply, which count as wrong: 1 of 18",
        "mine: replies to questions that the suite does not have, which are left out: 1",
        "mine: replies from which EmoCaliber reads nothing: 1",
        "mine: replies from which ours reads nothing: 1",
    ]


def test_what_cannot_be_compared_is_refused() -> None:
    questions = vecbench({"FI-8": 2})
    replies = {asked.id: SuiteReply("awe") for asked in questions}
    with pytest.raises(InputError, match="one id"):
        benchmark("vecbench", questions * 2, {"a": replies})
    with pytest.raises(InputError, match="answers no question of the suite"):
        benchmark("vecbench", questions, {"a": {"x": SuiteReply("awe")}})
    with pytest.raises(InputError, match="base: the model 'b' is unknown; allowed: a"):
        benchmark("vecbench", questions, {"a": replies}, bases={"a": "b"})
    with pytest.raises(InputError, match="'FI-9' is no task of the suite; allowed: FI-8"):
        benchmark("vecbench", questions, {"a": replies}, in_domain=["FI-9"])


def test_published_tables_have_the_keys_of_the_scorers() -> None:
    known = {
        "vecbench": {key for name in EMOCALIBER for key in (name, f"{name}-f1")},
        "mvei": {"total", "sentiment-polarity", "emotion-interpretation", "scene-context", "perception-subjectivity"},
    }
    known["vecbench"] |= {"overall", "overall-f1"} | {
        f"{group}{more}" for group in ("id-ver", "id-vsa", "ood-ver") for more in ("", "-f1", "-ece", "-brier", "-auroc")
    }
    for suite, keys in known.items():
        for table in published(suite):
            assert all(model.values.keys() <= keys for model in table.models)
    (table,) = published("eemo_bench")
    assert len(table.models) == 20
    for model in table.models:
        kinds = [model.values[f"single-{kind}"] for kind in ("yes-no", "what-how")]
        assert model.values["single-overall"] == pytest.approx(np.mean(kinds), abs=0.011)
    gpt = next(model for model in table.models if model.model == "GPT-4o")
    assert (gpt.values["pair-what-how"], gpt.values["ranking"], gpt.values["description"]) == (61.49, 65.67, 70.0)


def test_files_of_replies(tmp_path: Path) -> None:
    ours = tmp_path / "ours.jsonl"
    rated = SuiteReply("é", confidence=0.5, value=0.2, verdict=False, invalid=True, judgements=(1, 2))
    ours.write_text(line_of("single/0", rated) + "\n\n" + line_of("FI-8/0", SuiteReply("awe")) + "\n")
    assert read_replies("vecbench", ours, []) == {"single/0": rated, "FI-8/0": SuiteReply("awe")}

    std = {"a.jpg": mvei_row(), "b.jpg": {**mvei_row(), "generations": ["A", "B"]}}
    observer = tmp_path / "Std_MVEI_results.json"
    observer.write_text(json.dumps(std))
    assert read_replies("mvei", observer, read_questions("mvei", [observer])) == {"b.jpg": SuiteReply("A")}

    bench = tmp_path / "EEmo-Bench(m-pair).json"
    judged = {"response(m)": "words", "eval_result(m)": ["2", "1", "2", "2", "2"]}
    rows = [
        pair_row(1, **{"response(m)": "B", "eval_result(m)": 1, "if_invalid(m)": 0}),
        pair_row(6, question_type="Open_ended", **judged),
    ]
    bench.write_text(json.dumps(rows))
    assert read_replies("eemo_bench", bench, read_questions("eemo_bench", [bench])) == {
        "pair/1": SuiteReply("B", verdict=True),
        "pair/6": SuiteReply("words", judgements=(2, 1, 2, 2, 2)),
    }

    # EmoCaliber's rows name no question but by what it asks: where one is missing, the later ones stand in other lines.
    lines = [vecbench_line(f"{n}.jpg", "FI-8", list(EIGHT), EIGHT[n], response="awe", confidence=0.9) for n in range(3)]
    merged = tmp_path / "merged.jsonl"
    merged.write_text("".join(lines))
    questions = read_questions("vecbench", [merged])
    assert read_replies("vecbench", merged, questions) == {str(n): SuiteReply("awe", 0.9) for n in (1, 2, 3)}
    merged.write_text("".join(lines[1:]))
    assert read_replies("vecbench", merged, questions) == {str(n): SuiteReply("awe", 0.9) for n in (2, 3)}


def results_of_vecbench(path: Path, numbers: Sequence[int], failed: Sequence[int] = (), folder: str = "") -> Path:
    """As EmoCaliber's runner writes them; the reply to question n is n."""
    lines = [vecbench_line(f"{folder}{n}.jpg", "FI-8", list(EIGHT), EIGHT[n % 8], response=str(n)) for n in numbers]
    errors = [
        json.dumps({"original_data": json.loads(lines[numbers.index(n)]), "error": "out of memory"}) + "\n" for n in failed
    ]
    path.write_text(
        "".join(errors + [line for n, line in zip(numbers, lines, strict=True) if n not in failed]), encoding="utf-8"
    )
    return path


def test_results_that_lack_a_row_are_of_the_questions_that_they_ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = read_questions("vecbench", [results_of_vecbench(tmp_path / "test_8k.jsonl", range(6))])
    # A file of one GPU has its errors in it; the merged file has dropped them; a folder of one's own begins elsewhere.
    raw = results_of_vecbench(tmp_path / "0.jsonl", range(6), failed=[0, 3])
    merged = results_of_vecbench(tmp_path / "merged.jsonl", [1, 2, 4, 5])
    moved = results_of_vecbench(tmp_path / "moved.jsonl", [1, 2, 4, 5], folder="elsewhere/")
    expected = {str(n + 1): SuiteReply(str(n)) for n in (1, 2, 4, 5)}
    for file in (raw, merged, moved):
        assert read_replies("vecbench", file, suite) == expected
    assert "0.jsonl: 2 rows hold an error in the place of a reply and are left out (first: " in capsys.readouterr().err
    arm = benchmark("vecbench", suite, {"m": expected}, resamples=10)["arms"]["m"]
    assert (arm["answered"], arm["missing"], arm["unknown"]) == (4, 2, 0)
    # What the suite does not ask is unknown, and no reply to the question in that line.
    other = results_of_vecbench(tmp_path / "other.jsonl", [9, 1])
    assert read_replies("vecbench", other, suite) == {"other.jsonl:1": SuiteReply("9"), "2": SuiteReply("1")}


def test_results_that_contradict_the_suite_or_answer_twice_are_refused(tmp_path: Path) -> None:
    suite = read_questions("vecbench", [results_of_vecbench(tmp_path / "test_8k.jsonl", range(3))])
    twice = tmp_path / "twice.jsonl"
    twice.write_text(results_of_vecbench(twice, [1, 2]).read_text() * 2)
    with pytest.raises(InputError, match=r"twice\.jsonl: a second reply to the question '2' \(row 3\)"):
        read_replies("vecbench", twice, suite)
    twice.write_text(vecbench_line("1.jpg", "FI-8", list(EIGHT), "fear", response="x"))
    with pytest.raises(InputError, match="'1' is of FI-8, with the truth 'fear'; the suite's is of FI-8, with the truth 'awe'"):
        read_replies("vecbench", twice, suite)


def test_a_picture_that_is_asked_twice_has_two_replies(tmp_path: Path) -> None:
    file = results_of_vecbench(tmp_path / "test_8k.jsonl", range(2))
    file.write_text(file.read_text() + vecbench_line("0.jpg", "FI-8", list(EIGHT), EIGHT[0], response="again"))
    suite = read_questions("vecbench", [file])
    assert read_replies("vecbench", file, suite) == {"1": SuiteReply("0"), "2": SuiteReply("1"), "3": SuiteReply("again")}


def test_questions_of_several_files_of_results_are_each_there_once(tmp_path: Path) -> None:
    a, b = (results_of_vecbench(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", [0, 1, 3]), ("b", [1, 2, 3])))
    questions = one_of_each({path.stem: read_questions("vecbench", [path]) for path in (a, b)})
    assert [(asked.id, asked.images) for asked in questions] == [
        ("1", ("/data/0.jpg",)),
        ("2", ("/data/1.jpg",)),
        ("3", ("/data/3.jpg",)),
        ("b:2", ("/data/2.jpg",)),
    ]
    assert read_replies("vecbench", b, questions) == {"2": SuiteReply("1"), "b:2": SuiteReply("2"), "3": SuiteReply("3")}


def test_options_are_known_also_where_the_prompt_lists_them_in_another_way(tmp_path: Path) -> None:
    """EEmo-Bench's own prompts have no `{…}`, from which EmObserver's rule reads what the options say."""
    options = "{'A': 'Neutral', 'B': 'Fear', 'C': 'Sadness', 'D': 'Joy'}"
    said = {"response(m)": "<answer>Joy</answer>", "eval_result(m)": 1, "if_invalid(m)": 0}
    file = tmp_path / "EEmo-Bench(m-pair).json"
    file.write_text(json.dumps([pair_row(n, options=options, correct_answer="D", **said) for n in range(2)]))
    questions = read_questions("eemo_bench", [file])
    found = benchmark("eemo_bench", questions, {"m": read_replies("eemo_bench", file, questions)}, resamples=10)
    scorers = found["arms"]["m"]["scorers"]
    assert {name: values(one)["pair-what-how"] for name, one in scorers.items()} == {
        "EEmo-Bench": 100,
        "EmObserver": 100,
        "ours": 100,
    }


def test_an_image_of_eemo_bench_is_asked_for_a_ranking_and_three_attributes(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps([assessed()]))
    asked = {one.id: one for one in read_questions("eemo_bench", [truth])}
    assert asked.keys() >= {"ranking/1.jpg", "valence/1.jpg", "arousal/1.jpg", "dominance/1.jpg", "single/1.jpg/judge"}
    assert asked["ranking/1.jpg"].ranking == ("joy", "neutral", "surprise")
    assert asked["arousal/1.jpg"].value == 4.25
    assert asked["single/1.jpg/judge"].unit == asked["ranking/1.jpg"].unit == "1.jpg"
    with pytest.raises(InputError, match="two questions have the id"):
        read_questions("eemo_bench", [truth, truth])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a"}', "key 'reply' is missing"),
        ('{"id": "a", "reply": "x", "answer": "y"}', "unknown key 'answer'; allowed: confidence, id"),
        ('{"id": "a", "reply": "x", "confidence": 2}', "'confidence': found 2; expected a finite number from 0 to 1"),
        ('{"id": "a", "reply": "x"}\n{"id": "a", "reply": "y"}', "a second reply to the question 'a'"),
        ('{"id": "a", "reply": "x", "verdict": 1}', "'verdict': found 1; expected true or false"),
        ("[1]", "expected an object"),
        ("", "holds no reply"),
    ],
)
def test_what_is_no_file_of_replies_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "said.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_replies("mvei", path, [])
