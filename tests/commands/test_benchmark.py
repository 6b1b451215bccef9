"""`emo benchmark`: a tiny model is asked a suite in its published layout, its replies are scored, and handed in for a leaderboard."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from PIL.ExifTags import Base
from scipy.stats import spearmanr

from emo_lightning.analysis.suites.replies import read_replies
from emo_lightning.cli import main
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference import free_questions
from emo_lightning.inference.bundle import read_bundle, write_bundle
from emo_lightning.inference.free_questions import FreeQuestion, answers
from emo_lightning.inference.model import EmotionModel
from emo_lightning.models.affect import AffectHead
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_frozen
from emo_lightning.report.tables.benchmark import LEADERBOARD_HEADS
from tests.analysis.suites.given import EIGHT
from tests.core.suites.trees import assessed, pair_row, vecbench_line
from tests.data_prep.serving import completion, send, server
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

TASKS = ("EmoSet-8", "Abstract-8", "Artphoto-8")


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`test_8k.jsonl` with four questions of each of three tasks, and their images."""
    folder = tmp_path_factory.mktemp("suite")
    lines: list[str] = []
    for task in TASKS:
        (folder / task).mkdir()
        for n in range(4):
            pixels = np.random.default_rng(len(lines)).integers(0, 255, (60 + 30 * n, 84, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / task / f"{n}.png")
            lines.append(vecbench_line(f"{task}/{n}.png", task, list(EIGHT), EIGHT[2 * n % 8]))
    (folder / "test_8k.jsonl").write_text("".join(lines))
    return folder


def ask(bundle: Path, suite: Path, out: Path, *more: str) -> int:
    options = ("--model", str(bundle), "--images", str(suite), "--out", str(out), "--device", "cpu", "--max-new-tokens", "8")
    return main(["benchmark", "vecbench", "--data", str(suite / "test_8k.jsonl"), *options, *more])


def test_what_is_asked_is_not_asked_again_and_is_the_same_in_other_batches(
    bundle: Path, suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert ask(bundle, suite, whole, "--batch-size", "12") == 0
    assert (
        "12 replies, 12 of them new, greedy (published values are mostly sampled at temperature 0.7)" in capsys.readouterr().out
    )
    calls = 0
    true = free_questions.answers

    def until(backbone: Backbone, questions: Sequence[FreeQuestion], most: int) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return true(backbone, questions, most)

    monkeypatch.setattr(free_questions, "answers", until)
    assert ask(bundle, suite, cut, "--batch-size", "5") == 130
    monkeypatch.setattr(free_questions, "answers", true)
    part = tmp_path / "cut.part.jsonl"
    # What a kill leaves of a line is asked again.
    part.write_bytes(part.read_bytes()[:-9])
    assert ask(bundle, suite, cut, "--batch-size", "5") == 0
    assert "12 replies, 3 of them new" in capsys.readouterr().out
    assert cut.read_text() == whole.read_text()
    assert not part.exists()
    assert json.loads((tmp_path / "cut.about.json").read_text())["decoding"] == "greedy"
    assert ask(bundle, suite, cut, "--max-new-tokens", "9") == 2
    assert "was begun with max_new_tokens '8', now it is '9'" in capsys.readouterr().err
    about = tmp_path / "cut.about.json"
    noted = json.loads(about.read_text())
    assert (noted["dtype"], noted["attention"]) == ("float32", "sdpa")
    about.write_text(json.dumps(noted | {"attention": "eager"}))
    assert ask(bundle, suite, cut) == 2
    assert "was begun with attention 'eager', now it is 'sdpa'" in capsys.readouterr().err
    # As an earlier version has left it.
    about.write_text(json.dumps({key: value for key, value in noted.items() if key not in ("dtype", "attention")}))
    assert ask(bundle, suite, cut) == 0
    assert "12 replies, 0 of them new" in capsys.readouterr().out


def test_two_pictures_are_read_as_transformers_reads_them(worded_model: Path, suite: Path) -> None:  # noqa: F811
    pictures = [Image.open(suite / "EmoSet-8" / f"{n}.png").convert("RGB") for n in (0, 3)]
    both, one = FreeQuestion(pictures, "Which of the two?"), FreeQuestion(pictures[1:], "What is felt?")
    backbone = load_frozen(BackboneConfig(str(worded_model), tuning="frozen"))
    processor, base = backbone.processor, backbone.base
    expected = []
    for asked in (both, one):
        content: list[dict[str, object]] = [{"type": "image"} for _ in asked.pictures]
        content.append({"type": "text", "text": asked.words})
        text = backbone.family.prompt_text(
            processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        )
        inputs = processor(text=[text], images=list(asked.pictures), return_tensors="pt")  # type: ignore[operator]
        inputs["pixel_values"] = inputs["pixel_values"].to(base.dtype)
        said = base.generate(**inputs, max_new_tokens=10, do_sample=False)[:, inputs["input_ids"].shape[1] :]  # type: ignore[operator]
        expected += processor.batch_decode(said, skip_special_tokens=True)
    assert answers(backbone, [both, one], 10) == expected
    assert [answers(backbone, [asked], 10)[0] for asked in (both, one)] == expected


def test_what_cannot_be_asked_is_refused_before_a_model_is_loaded(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["benchmark", *words]) == 2
        return capsys.readouterr().err

    data = ("vecbench", "--data", str(suite / "test_8k.jsonl"))
    nowhere = ("--model", "none", "--images", str(tmp_path), "--out", str(tmp_path / "o.jsonl"))
    assert "12 of 12 images of the suite are not there, first: '/data/EmoSet-8/0.png'" in refused(*data, *nowhere)
    assert "--images is missing" in refused(*data, "--model", "none", "--out", "o.jsonl")
    assert "a file of replies ends in .jsonl" in refused(*data, "--model", "none", "--images", str(suite), "--out", "o.json")
    assert "neither --predictions nor --model" in refused(*data)
    assert "--images is for asking a model" in refused(*data, "--predictions", "a.jsonl", "--images", str(suite))
    assert "--tasks FI-8: there is no such question; allowed: EmoSet-8, Abstract-8" in refused(
        *data, "--predictions", "a", "--tasks", "FI-8"
    )
    replies = tmp_path / "said.jsonl"
    replies.write_text('{"id": "1", "reply": "awe"}\n')
    assert "holds replies alone; --data names the files" in refused("vecbench", "--predictions", str(replies))
    assert "given twice" in refused(*data, "--predictions", str(replies), str(replies))
    assert "--base b: is none of the models; allowed: said" in refused(*data, "--predictions", str(replies), "--base", "b")


def test_an_affect_head_gives_valence_and_arousal_of_a_suite(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """EEmo-Bench has no words for them; dominance, which the head was not trained for, is left out and said."""
    found = read_bundle(bundle)
    shutil.copytree(found.head, tmp_path / "head")
    torch.manual_seed(2)
    beside = AffectHead(32, dimensions=["valence", "arousal"]).save_beside(tmp_path / "head")
    write_bundle(tmp_path, replace(found, head=str(tmp_path / "head"), affect=str(beside)))
    (tmp_path / "images").mkdir()
    for n in range(5):
        pixels = np.random.default_rng(n).integers(0, 255, (60 + 12 * n, 84, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{n}.png")
    rows = [assessed(f"{n}.png", Valence=[1.0 + n, 0.5, 1.0]) for n in range(5)]
    (tmp_path / "truth.json").write_text(json.dumps(rows))
    given = [
        "eemo_bench",
        "--data",
        str(tmp_path / "truth.json"),
        "--images",
        str(tmp_path / "images"),
        "--max-new-tokens",
        "2",
    ]
    said = tmp_path / "said.jsonl"
    asked = ["benchmark", *given, "--device", "cpu", "--out", str(said), "--model"]
    assert main([*asked, str(tmp_path), "--tasks", "valence", "arousal", "dominance", "--batch-size", "3"]) == 0
    out = capsys.readouterr().out
    assert "10 replies, 10 of them new" in out
    assert "5 questions have no words of the suite's and were not asked" in out
    model = EmotionModel(tmp_path, device="cpu")
    points = model.points(model.embed([tmp_path / "images" / f"{n}.png" for n in range(5)]))
    assert points is not None
    replies = read_replies("eemo_bench", said, [])
    for n, point in enumerate(points):
        for name, value in point.items():
            assert replies[f"{name}/{n}.png"].value == pytest.approx(value, abs=1e-5)
    command = ["benchmark", *given[:3], "--tasks", "valence", "--predictions", f"ours={said}", "--json"]
    assert main(command) == 0
    metrics = json.loads(capsys.readouterr().out)["arms"]["ours"]["scorers"]["ours"]["metrics"]
    expected = spearmanr([point["valence"] for point in points], range(5)).statistic
    assert metrics["valence-srcc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert metrics["valence-answered"]["value"] == 100
    # Of a model without one there is nothing to ask: said before it is loaded.
    assert main([*asked, str(bundle), "--tasks", "valence"]) == 2
    assert "are given by a model that was trained with va_weight" in capsys.readouterr().err


def test_descriptions_are_judged_and_each_grade_is_paid_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three descriptions the first gets 1, 2, 1, 2, 1; of the second one grade cannot be read; the third question has options."""
    monkeypatch.setenv("JUDGE_KEY", "k")
    asked = Counter[str]()

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        (message,) = body["messages"]
        text = message["content"] if isinstance(message["content"], str) else message["content"][0]["text"]
        which = "first" if "a storm at sea" in text else "second"
        asked[which] += 1
        assert "Which emotions, and why?" in text
        assert "[]" not in text
        send(handler, 200, completion(f"Score: {2 - asked[which] % 2}" if which == "first" or asked[which] > 1 else "no grade"))

    rows = [
        pair_row(n, question_type="Open_ended", question="Which emotions, and why?", options="", correct_answer="fear")
        for n in (1, 2)
    ]
    (tmp_path / "pair.json").write_text(json.dumps([*rows, pair_row(3)]))
    said = {"pair/1": "fear of a storm at sea", "pair/2": "joy of a picnic", "pair/3": "B"}
    lines = [json.dumps({"id": name, "reply": text}) for name, text in said.items()]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    with server(answer) as (url, seen):
        price = {"input": 1, "output": 2}
        config = {"model": "judge-1", "base_url": url, "api_key_env": "JUDGE_KEY", "price": price, "concurrency": 1}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(config))
        command = [
            "benchmark",
            "eemo_bench",
            "--data",
            str(tmp_path / "pair.json"),
            "--predictions",
            str(tmp_path / "said.jsonl"),
        ]
        judging = [*command, "--judge", str(tmp_path / "judge.yaml"), "--store", str(tmp_path / "store"), "--out"]
        assert main([*judging, str(tmp_path / "judged.jsonl"), "--estimate"]) == 0
        assert not seen
        assert "10 questions, 0 answered in the ledger, the others cost at most $" in capsys.readouterr().out
        assert main([*judging, str(tmp_path / "judged.jsonl")]) == 0
        out = capsys.readouterr().out
        assert len(seen) == 10
        assert {body["temperature"] for body in seen} == {1}
        assert "2 descriptions graded by judge-1; 1 have fewer than 5 grades" in out
        # Again, into another file: from the ledger.
        assert main([*judging, str(tmp_path / "again.jsonl")]) == 0
        assert len(seen) == 10
        assert (tmp_path / "again.jsonl").read_text() == (tmp_path / "judged.jsonl").read_text()
    capsys.readouterr()
    found = read_replies("eemo_bench", tmp_path / "judged.jsonl", [])
    assert sorted(found["pair/1"].judgements) == [1, 1, 1, 2, 2]
    assert (len(found["pair/2"].judgements), found["pair/3"].judgements) == (4, ())
    assert main([*command[:4], "--predictions", f"ours={tmp_path / 'judged.jsonl'}", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)["arms"]["ours"]
    metric = result["scorers"]["ours"]["metrics"]["pair-description"]
    assert (metric["value"], metric["items"], metric["title"]) == (70, 1, "description, two images (judged by judge-1)")
    # What DeepSeek was asked by the authors is another metric.
    assert "EEmo-Bench" not in result["scorers"] or "pair-description" not in result["scorers"]["EEmo-Bench"]["metrics"]
    assert any("1 descriptions have fewer than 5 judgements" in note for note in result["notes"])


def write_replies(path: Path, suite: Path, wrong: Sequence[str] = ()) -> Path:
    """The truth as replies, but for the tasks that are all wrong."""
    rows = [json.loads(line) for line in (suite / "test_8k.jsonl").read_text().splitlines()]
    said = [EIGHT[1] if row["task"] in wrong else row["ground_truth"] for row in rows]
    lines = [{"id": str(n), "reply": f"<answer>{word}</answer>", "confidence": 0.75} for n, word in enumerate(said, 1)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


def test_replies_are_scored_beside_published_figures(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_replies(tmp_path / "base.jsonl", suite)
    tuned = write_replies(tmp_path / "tuned.jsonl", suite, ["Artphoto-8"])
    words = [
        "benchmark",
        "vecbench",
        "--data",
        str(suite / "test_8k.jsonl"),
        "--predictions",
        str(base),
        f"ours={tuned}",
        "--base",
        "base",
    ]
    assert main([*words, "--report", str(tmp_path / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "run/benchmark.json").read_text())
    arm = found["arms"]["ours"]["scorers"]["ours"]
    assert arm["metrics"]["Artphoto-8"]["value"] == 0.0
    assert arm["collapse"]["difference"] == -50.0
    page = json.loads((tmp_path / "run/page.json").read_text())
    assert [row[:2] for row in page["tables"][0]["rows"]][-3:] == [
        ["EmoCaliber-7B", "EmoCaliber"],
        ["EmoCaliber-7B", "EmoCaliber's paper (means of tasks)"],
        ["Qwen2.5-VL-7B", "EmoCaliber's paper (means of tasks)"],
    ]
    assert main([*words[:4], "--tasks", "EmoSet-8", *words[4:]]) == 0
    assert "VECBench: models by scorer" in capsys.readouterr().out


def test_a_file_of_results_brings_its_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, reply in (("a", "Both are B: It's fear"), ("b", "A: Neutral")):
        right = int(name == "a")
        rows = [
            pair_row(n, **{f"response({name})": reply, f"eval_result({name})": right, f"if_invalid({name})": 0})
            for n in range(3)
        ]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
    assert (
        main(["benchmark", "eemo_bench", "--predictions", str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--base", "b"])
        == 0
    )
    said = capsys.readouterr().out
    assert "whoever made these decided both" in said
    assert "Accuracy over that of b: a" in said


def submission(
    folder: Path, suite: Path, name: str, more: str = "", wrong: Sequence[str] = (), keep: int | None = None
) -> Path:
    folder.mkdir()
    path = write_replies(folder / "replies.jsonl", suite, wrong)
    if keep is not None:
        path.write_text("\n".join(path.read_text().splitlines()[:keep]))
    (folder / "submission.yaml").write_text(
        f"name: {name}\nsuite: vecbench\nreplies: replies.jsonl\ndecoding: greedy\nprompts: the suite's\n{more}"
    )
    return folder


def test_a_leak_is_found_through_tars_and_who_lists_nothing_has_no_place(tmp_path: Path) -> None:
    """The suite's pictures are turned by their EXIF, or have a comment beside their pixels; what was trained on came through a store."""
    (tmp_path / "EmoSet-8").mkdir()
    (tmp_path / "train" / "awe").mkdir(parents=True)
    lines = []
    for n in range(4):
        image = Image.fromarray(np.random.default_rng(n).integers(0, 255, (60, 84, 3), dtype=np.uint8))
        exif = image.getexif()
        exif[Base.Orientation if n < 2 else Base.ImageDescription] = 6 if n < 2 else "a place"
        image.save(tmp_path / "EmoSet-8" / f"{n}.jpg", exif=exif)
        lines.append(vecbench_line(f"EmoSet-8/{n}.jpg", "EmoSet-8", list(EIGHT), EIGHT[n]))
    (tmp_path / "test_8k.jsonl").write_text("".join(lines))
    for n in (0, 2):
        shutil.copy(tmp_path / "EmoSet-8" / f"{n}.jpg", tmp_path / "train" / "awe" / f"{n}.jpg")
    store = str(tmp_path / "store")
    assert main(["prep", "import", "labelled", str(tmp_path / "train"), "--into", store, "--name", "train"]) == 0
    leaky = submission(tmp_path / "leaky", tmp_path, "leaky", "trained_on: [tars]\n")
    assert main(["prep", "export", store, str(leaky / "tars"), "--name", "train", "--labels", "source"]) == 0
    # As somebody lists them who has the tars alone.
    listing = submission(tmp_path / "listing", tmp_path, "listing", "trained_on: [train.sha256]\n")
    index = TarIndex.open([str(leaky / "tars")])
    (listing / "train.sha256").write_text("".join(f"{index.record(row).sha256}  x\n" for row in range(len(index))))
    silent = submission(tmp_path / "silent", tmp_path, "silent")
    clean = submission(tmp_path / "clean", tmp_path, "clean", "trained_on: []\n", ["EmoSet-8"])
    data = ["--data", f"vecbench={tmp_path / 'test_8k.jsonl'}", "--images", f"vecbench={tmp_path}"]
    folders = [str(folder) for folder in (leaky, listing, silent, clean)]
    assert main(["benchmark", "page", *folders, *data, "--out", str(tmp_path / "board.html")]) == 0
    checks = (tmp_path / "board_tables/vecbench-what-was-checked.csv").read_text().splitlines()
    listed = {row.split(",")[0]: row for row in checks[1:]}
    # Of the one with a comment the tar says both what it is and what it was made of.
    assert "3 listed,2 of 4," in listed["leaky"]
    assert "2 listed,2 of 4," in listed["listing"]
    assert "not known,not known," in listed["silent"]
    places = (tmp_path / "board_tables/vecbench-places.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0]: row.split(",")[1] for row in places} == {
        "clean": "1",
        "leaky": "–",
        "listing": "–",
        "silent": "–",
    }


def test_a_leaderboard_finds_leaks_and_places_nobody_who_has_one(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = submission(tmp_path / "clean", suite, "clean", "trained_on: [train.sha256]\nbase: base\n", ["Artphoto-8"])
    (clean / "train.sha256").write_text(f"{'0' * 64}  a.jpg\n")
    # As EmObserver is trained on pictures of a test split.
    leaky = submission(tmp_path / "leaky", suite, "<b>leaky</b>", "trained_on: [train.txt]\nbase: base\n")
    seen = [hashlib.sha256((suite / "EmoSet-8" / f"{n}.png").read_bytes()).hexdigest() for n in range(3)]
    (leaky / "train.txt").write_text("\n".join(seen))
    base = submission(tmp_path / "base", suite, "base", "trained_on: []\n", ["Artphoto-8", "EmoSet-8"])
    silent = submission(tmp_path / "silent", suite, "silent", keep=11)
    out = tmp_path / "board.html"
    folders = [str(folder) for folder in (clean, leaky, base, silent)]
    data = ["--data", f"vecbench={suite / 'test_8k.jsonl'}", "--out", str(out)]
    assert main(["benchmark", "page", *folders, *data, "--images", f"vecbench={suite}"]) == 0
    assert "4 submissions to VECBench" in capsys.readouterr().out
    text = out.read_text()
    assert "<b>leaky" not in text
    assert "&lt;b&gt;leaky&lt;/b&gt;" in text
    assert "http" not in text.split("</style>")[1]
    checks = (tmp_path / "board_tables/vecbench-what-was-checked.csv").read_text().splitlines()
    listed = {row.split(",")[0]: row for row in checks[1:]}
    assert "1 listed,0 of 12," in listed["clean"]
    assert "3 listed,3 of 12," in next(row for name, row in listed.items() if "leaky" in name)
    assert "0 listed,0 of 12," in listed["base"]
    assert "not known,not known," in listed["silent"]
    places = (tmp_path / "board_tables/vecbench-places.csv").read_text().splitlines()[1:]
    found = [row.split(",")[:2] for row in places]
    assert [place for _, place in found] == ["1", "2", "–", "–"]
    assert [name for name, _ in found][:2] == ["clean", "base"]
    # Without the pictures nothing is known of what was seen, but for a model that saw none.
    assert main(["benchmark", "page", *folders, *data]) == 0
    checks = (tmp_path / "board_tables/vecbench-what-was-checked.csv").read_text().splitlines()
    assert sum("not known" in row for row in checks) == 3


def test_an_arrow_says_what_the_best_is_chosen_by() -> None:
    """The title follows the column, and not the column the title."""
    for heads in LEADERBOARD_HEADS.values():
        for head in heads:
            assert head.title.endswith("↓" if head.lower_is_better else "↑"), head


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("trained_on: [../train.sha256]", "names '../train.sha256', which lies outside of its folder"),
        ("trained_on: [replies.txt]", "expected a SHA-256 sum, 64 hexadecimal digits"),
        ("rank: 1", "key 'rank': Extra inputs are not permitted; expected name, suite"),
        ("base: other", "base: the model 'other' is unknown; allowed: mine"),
    ],
)
def test_a_submission_that_is_none_is_named(
    suite: Path, tmp_path: Path, more: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = submission(tmp_path / "mine", suite, "mine", more + "\n")
    (folder / "replies.txt").write_text("abc\n")
    data = ["--data", f"vecbench={suite / 'test_8k.jsonl'}", "--out", str(tmp_path / "board.html")]
    assert main(["benchmark", "page", str(folder), *data]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "board.html").exists()


def test_a_page_needs_questions_of_a_known_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["benchmark", "page", str(tmp_path), "--out", str(tmp_path / "board.html")]
    assert main([*words, "--data", "vecbanch=a.json"]) == 2
    assert "--data vecbanch=a.json: expected SUITE=PATH, with a suite of mvei, vecbench, eemo_bench" in capsys.readouterr().err
    assert main([*words[:-1], "board.pdf", "--data", "vecbench=a.json"]) == 2
    assert "expected a file that ends in .html" in capsys.readouterr().err


def test_replies_of_a_pass_can_be_scored(bundle: Path, suite: Path, tmp_path: Path) -> None:
    out = tmp_path / "said.jsonl"
    assert ask(bundle, suite, out, "--tasks", "EmoSet-8") == 0
    assert read_replies("vecbench", out, []).keys() == {"1", "2", "3", "4"}
    assert main(["benchmark", "vecbench", "--data", str(suite / "test_8k.jsonl"), "--predictions", str(out), "--json"]) == 0
