"""`emo predict` with models on this machine: a tiny random Qwen2.5-VL with an adapter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.prefill import Read
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.prediction_files import PredictionFiles
from tests.made import as_json
from tests.ranks import run_ranks

TOKENS = "12"


def predict(model: Path, tars: Path, out: Path, *options: str) -> int:
    """The command, on the CPU."""
    more = ("--max-new-tokens", TOKENS, "--accelerator", "cpu", "--devices", "1", *options)
    return main(["predict", str(model), str(tars), "--out", str(out), *more])


def replies(path: Path) -> dict[str, list[str]]:
    """id -> raw replies."""
    return {p.id: [r["reply"] for r in as_json(p.provenance)["replies"]] for p in read_jsonl(path, Prediction)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Ids of every batch that the model reads: all questions about its images together."""
    seen: list[list[str]] = []
    read = Backbone.read

    def counted(self: Backbone, row: dict[str, Any], after: Mapping[int, Sequence[int]] | None = None, layers: int = 0) -> Read:
        seen.append(list(row["key"]))
        return read(self, row, after, layers)

    monkeypatch.setattr(Backbone, "read", counted)
    return seen


@pytest.fixture(scope="module")
def whole(adapter: Path, world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the adapter says of all 40 images, asked in batches of 8."""
    out = tmp_path_factory.mktemp("whole") / "said.jsonl"
    assert predict(adapter, world_tars, out, "--batch-size", "8") == 0
    return out


def test_one_prediction_an_image_whatever_the_batch(
    whole: Path, adapter: Path, world_tars: Path, tmp_path: Path, asked: list
) -> None:
    assert predict(adapter, world_tars, tmp_path / "one.jsonl", "--batch-size", "1", "--limit", "9") == 0
    single, said = replies(tmp_path / "one.jsonl"), replies(whole)
    assert len(said) == 40
    assert list(said) == sorted(said)
    assert len(single) == 9
    assert {i: said[i] for i in single} == single
    assert len({tuple(r) for r in said.values()}) > 1
    assert not (whole.parent / "said.jsonl.parts").exists()
    # Longest first: the images' areas fall.
    areas = {p.id: (p.width or 0) * (p.height or 0) for p in read_jsonl(whole, Prediction)}
    order = [areas[keys[0]] for keys in asked]
    assert len(order) == 9
    assert order[0] > order[-1]


def test_a_killed_pass_goes_on_by_sample(whole: Path, adapter: Path, world_tars: Path, tmp_path: Path, asked: list) -> None:
    """A kill is what it leaves behind: parts of two ranks, one of them torn in its last line."""
    out = tmp_path / "p.jsonl"
    shutil.copy(whole.parent / "said.about.json", tmp_path / "p.about.json")
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    parts = tmp_path / "p.jsonl.parts"
    parts.mkdir()
    (parts / "00000.jsonl").write_text("".join(lines[:10]))
    (parts / "00001.jsonl").write_text("".join(lines[10:20]) + lines[20][:50])
    assert predict(adapter, world_tars, out, "--batch-size", "8") == 0
    assert {i for keys in asked for i in keys} == {json.loads(line)["id"] for line in lines[20:]}
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.about.json", "p.jsonl"]
    # Complete: the model is not even loaded.
    asked.clear()
    assert predict(adapter, world_tars, out) == 0
    assert asked == []
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("step", ["gathered", "part gone", "written"])
def test_a_kill_between_any_two_steps_of_the_end_loses_nothing(step: str, tmp_path: Path) -> None:
    files = PredictionFiles(tmp_path / "p.jsonl")
    files.begin({"model": "m"})
    files.append(0, [Prediction(id="b")])
    files.append(1, [Prediction(id="a")])
    if step != "written":
        # As `begin` leaves it when it dies after its rename, before or after the first unlink.
        shutil.copy(files.folder / "00000.jsonl", files.folder / "kept.jsonl")
        if step == "part gone":
            (files.folder / "00000.jsonl").unlink()
    else:
        shutil.copy(files.folder / "00000.jsonl", files.out)
    again = PredictionFiles(tmp_path / "p.jsonl")
    again.begin({"model": "m"})
    assert {p.id for p in again.answered()} == {"a", "b"}
    assert [p.id for p in again.finish()] == ["a", "b"]
    assert [p.id for p in read_jsonl(files.out, Prediction)] == ["a", "b"]


def test_an_image_that_changed_under_its_id_is_asked_again(
    adapter: Path, whole: Path, world_tars: Path, tmp_path: Path, asked: list
) -> None:
    out = tmp_path / "p.jsonl"
    shutil.copy(whole.parent / "said.about.json", tmp_path / "p.about.json")
    stale = [json.loads(line) for line in whole.read_text(encoding="utf-8").splitlines()]
    changed = stale[3]["id"]
    stale[3] |= {"sha256": "f" * 64, "provenance": {"replies": [{"reply": "old"}] * 2}}
    out.write_text("".join(json.dumps(p) + "\n" for p in stale))
    assert predict(adapter, world_tars, out) == 0
    assert asked == [[changed]]
    assert out.read_bytes() == whole.read_bytes()


def test_two_models_never_share_a_file(
    adapter: Path, tiny_qwen: Path, whole: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p.jsonl"
    for name, there in (("said.jsonl", "p.jsonl"), ("said.about.json", "p.about.json")):
        shutil.copy(whole.parent / name, tmp_path / there)
    assert predict(tiny_qwen, world_tars, out) == 2
    assert "was begun with weights" in capsys.readouterr().err
    assert predict(adapter, world_tars, out, "--blind") == 2
    assert "was begun with blind false, now it is true" in capsys.readouterr().err
    assert out.read_bytes() == whole.read_bytes()
    (tmp_path / "p.about.json").unlink()
    assert predict(adapter, world_tars, out) == 2
    assert "nothing says who made it" in capsys.readouterr().err


def test_adapter_merged_folder_and_bundle_say_the_same(
    adapter: Path, bundle: Path, tiny_qwen: Path, whole: Path, world_tars: Path, tmp_path: Path
) -> None:
    assert main(["export", str(adapter), "--merge", "--out", str(tmp_path / "merged")]) == 0
    said = replies(whole)
    for name, model in (("merged", tmp_path / "merged"), ("bundle", bundle)):
        out = tmp_path / f"{name}.jsonl"
        assert predict(model, world_tars, out, "--limit", "6", "--batch-size", "6") == 0
        assert replies(out) == {i: said[i] for i in replies(out)}
    assert predict(tiny_qwen, world_tars, tmp_path / "base.jsonl", "--limit", "6") == 0
    base = replies(tmp_path / "base.jsonl")
    assert base != {i: said[i] for i in base}


def test_blind_answers_depend_on_the_size_alone(adapter: Path, world_tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "blind.jsonl"
    assert (
        predict(adapter, world_tars, out, "--blind", "--objectives", "emotion", "--min-pixels", "7056", "--max-pixels", "7056")
        == 0
    )
    sizes: dict[tuple, set[str]] = {}
    for p in read_jsonl(out, Prediction):
        sizes.setdefault((p.width, p.height), set()).add(as_json(p.provenance)["replies"][0]["reply"])
    assert len(sizes) > 1
    assert all(len(said) == 1 for said in sizes.values())


def exit_with(arguments: list[str]) -> None:
    """The command as a process has it."""
    raise SystemExit(main(arguments))


def test_two_ranks_write_the_file_of_one(adapter: Path, whole: Path, world_tars: Path, tmp_path: Path) -> None:
    """40 images in batches of 7 do not divide evenly."""
    arguments = ["predict", str(adapter), str(world_tars), "--out", str(tmp_path / "p.jsonl"), "--max-new-tokens", TOKENS]
    arguments += ["--accelerator", "cpu", "--batch-size", "7"]
    run_ranks(partial(exit_with, arguments))
    assert (tmp_path / "p.jsonl").read_bytes() == whole.read_bytes()
    assert not (tmp_path / "p.jsonl.parts").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["model", "--out", "p.jsonl"], "expected MODEL and TARS, found 'model' alone"),
        (["m", "t", "--out", "p.json"], "ends in .jsonl"),
        (["m", "t", "--out", "p.jsonl", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["t", "--out", "p.jsonl", "--base-url", "http://x"], "--model is missing"),
        (
            ["t", "--out", "p.jsonl", "--base-url", "http://x", "--endpoint", "e.yaml"],
            "--base-url is for a model behind an endpoint that options name",
        ),
        (["t", "--out", "p.jsonl", "--endpoint", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["./nowhere", "t*.tar", "--out", "p.jsonl"], "t*.tar"),
    ],
)
def test_one_clear_error(
    arguments: list[str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["predict", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("error:") == 1
    assert not (tmp_path / "p.jsonl").exists()


def test_two_sets_with_one_id_are_refused(adapter: Path, world_tars: Path, tmp_path: Path) -> None:
    """Their answers would be one."""
    tars = sorted(map(str, world_tars.glob("*.tar")))
    sets = {"test": tars[:1], "twice": tars[:1]}
    task = PredictTask(BackboneConfig(str(adapter)), out=str(tmp_path))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(InputError, match=r"the sets 'test' and 'twice' both have an image '[^']+', .*: ask each set"):
        trainer.test(task, datamodule=QuestionDataModule(sets, ["emotion"]), verbose=False)
    assert list(tmp_path.iterdir()) == []


def test_a_try_that_answered_nothing_binds_nothing(tmp_path: Path) -> None:
    """It may have failed on broken weights that are whole by now."""
    files = PredictionFiles(tmp_path / "p.jsonl")
    files.begin({"weights": "broken"})
    (files.folder / "00000.jsonl").write_text("")
    files.begin({"weights": "mended"})
    files.append(0, [Prediction(id="a")])
    with pytest.raises(InputError, match=r"p\.jsonl was begun with weights \"mended\", now it is \"other\""):
        files.begin({"weights": "other"})
    files.begin({"weights": "by content"}, {"weights": "mended"})
    assert [p.id for p in files.answered()] == ["a"]
