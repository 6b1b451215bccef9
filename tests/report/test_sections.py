from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.records import EMOTIONS, SchemaError, write_jsonl
from emo_lightning.report.build import build_report
from emo_lightning.report.examples import Examples
from emo_lightning.report.kinds import Kind, Shown, StageResult
from emo_lightning.report.page import Page, PageFigure, write_page
from emo_lightning.report.run_folder import RunFolder
from emo_lightning.report.sections import RunSections
from emo_lightning.stages import tables as stages
from tests.made import book, make_prediction, make_record, write_tar
from tests.report.pages import page, read


def test_right_and_wrong_answers_are_those_of_the_scorer(run: Path) -> None:
    found = RunSections(run, samples=3).section("answers")
    assert found
    chosen = found.details["table5"]
    assert isinstance(chosen, Examples)
    table5 = json.loads((run / "table5" / "table5.json").read_text())
    assert 100 * chosen.rights / chosen.of == pytest.approx(table5["arms"]["ours"]["strict"]["emotion_acc"])
    for sort, items in (("right", chosen.right), ("wrong", chosen.wrong)):
        assert len(items) == 3
        for item in items:
            answer = item["predictions"]["ours"]
            assert answer
            assert (answer["emotion"] == item["truth"]["emotion"]) == (sort == "right")
            assert len(item["truth"]["boxes"]) == len(answer["boxes"]) == 1


def test_pages_that_cannot_be_shown_are_named(tmp_path: Path) -> None:
    for name, body, expected in (
        ("a", {"title": 3}, "key title: found 3; expected a text"),
        ("b", {"title": "t", "tables": [{"columns": ["x"], "rows": [[1, 2]]}]}, "tables[0].rows[0]: 2 cells; expected 1"),
        ("c", {"title": "t", "figures": [{"title": "f", "file": "../f.svg"}]}, "found '../f.svg'"),
        ("d", {"title": "t", "figures": [{"title": "f", "file": "gone.png"}]}, "gone.png could not be shown"),
        ("e", {"title": "t", "colour": 1}, "unknown key 'colour'"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "page.json").write_text(json.dumps(body))
        assert expected in page(tmp_path, tmp_path / "report.html"), expected
    with pytest.raises(SchemaError, match="which is not there"):
        write_page(tmp_path / "a", Page("t", figures=[PageFigure("f", "gone.svg")]))


def test_nan_one_image_and_one_emotion_are_said(finished_run: Path, tmp_path: Path) -> None:
    records = [make_record("only", [(1, 1, 9, 9)], emotion="awe", intensity=3)]
    tar, records = write_tar(tmp_path / "one-000000.tar", records)
    run = tmp_path / "run"
    run.mkdir()
    write_jsonl(run / "p.jsonl", [make_prediction("only", emotion="awe", sha256=records[0].sha256)])
    settings = {"predictions": {"ours": str(run / "p.jsonl")}, "references": [str(tar)]}
    stages.table5_stage(run / "table5", {"ours": run / "p.jsonl"}, [str(tar)])
    book(run / "table5", "table5", settings)
    shutil.copytree(finished_run / "mds", run / "mds")
    with np.load(run / "mds" / "mds.npz") as points:
        np.savez(run / "mds" / "mds.npz", **{**points, "labels_0": np.array(["fear"] * len(points["labels_0"]))})
    (run / "table6").mkdir()
    mean: dict[str, object] = {
        m: {"mean": float("nan"), "std": None, "values": []} for m in ("accuracy", "precision", "recall", "f1")
    }
    (run / "table6" / "table6.json").write_text(json.dumps({"arms": {"ours": {"test": mean}}, "seeds": {"ours": 1}}))
    text = page(run, run / "report.html")
    for expected in (
        "1 image alone was scored",
        "every reference is labelled 'awe'",
        "every embedding is labelled 'fear'",
        "table6/table6.json holds 4 numbers that are not finite (NaN)",
        "ours is never wrong here",
        "the baseline 'shuffled labels' was left out",
    ):
        assert expected in text, expected
    assert "| nan" not in (run / "report_tables" / "all.md").read_text()


@pytest.mark.parametrize(("said", "warned"), [(["awe"] * 7 + ["fear"], True), ([*EMOTIONS], False)])
def test_an_arm_that_says_one_emotion_of_everything_is_named(said: list[str], warned: bool, tmp_path: Path) -> None:
    tar, _ = write_tar(
        tmp_path / "t-000000.tar", [make_record(str(e), [(1, 1, 9, 9)], emotion=e, intensity=3) for e in EMOTIONS]
    )
    write_jsonl(tmp_path / "p.jsonl", [make_prediction(str(e), emotion=s) for e, s in zip(EMOTIONS, said, strict=True)])
    settings = {"predictions": {"ours": str(tmp_path / "p.jsonl")}, "references": [str(tar)]}
    stages.table5_stage(tmp_path / "run" / "table5", {"ours": tmp_path / "p.jsonl"}, [str(tar)])
    book(tmp_path / "run" / "table5", "table5", settings)
    note = "ours says one emotion of nearly all images: awe, 7 of 8 (annotated so: 1)"
    text = page(tmp_path / "run", tmp_path / "report.html")
    assert (note in text) is warned
    assert "ours, of 8 images: 8 without an intensity" in text


def test_partial_run_names_what_is_damaged(tmp_path: Path) -> None:
    for name, kind, status in (("a", "table5", "complete"), ("b", "mds", "running"), ("c", "table6", "complete")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text(json.dumps({"stage": name, "kind": kind, "status": status}))
    (tmp_path / "a" / "table5.json").write_text('{"arms": ')
    (tmp_path / "b" / "mds.json").write_text('{"max_points": 3}')
    (tmp_path / "b" / "metrics.csv").write_text("epoch\n1\n")
    (tmp_path / "c" / "config.yaml").write_text("run: [")
    text = page(tmp_path, tmp_path / "report.html")
    for expected in (
        "a/table5.json could not be shown: not JSON",
        "b/mds.json could not be shown: key arms is missing",
        "b/metrics.csv could not be shown: no column 'step'",
        "c/config.yaml could not be shown: not YAML",
        "stage 'b' was interrupted, or is still running",
        "stage 'c' is complete but has no table6.json",
        "not part of this run: image panel, dataset statistics",
    ):
        assert expected in text, expected


def test_what_was_trained_is_said(run: Path) -> None:
    (run / "sft").mkdir()
    book(run / "sft", "sft", {"data": {"batch_size": 4}, "trainer": {"accumulate_grad_batches": 3}})
    found = {
        "seed": 7,
        "steps": 11,
        "devices": 2,
        "trained_parameters": 1234,
        "images": {"train": 90, "val": 10},
        "skipped": {"train": 5, "val": 0},
        "unreadable": dict.fromkeys("abcd", "broken"),
        "labels": {"train": {"emotion": 90, "emotion_scores": 0}},
        "remarks": ["train: no record has emotion_scores"],
    }
    (run / "sft" / "training.json").write_text(json.dumps(found))
    report = build_report(run, run / "report.html")
    table = next(t for t in report.tables if t.key == "training")
    assert table.rows == [["sft", 90, 10, "emotion 90, emotion scores 0", 11, 24, 1234, "7"]]
    assert "stage 'sft': train: no record has emotion_scores" in report.notes
    assert "stage 'sft': 4 images could not be read and were left out: a, b, c …" in report.notes
    assert "stage 'sft': 5 train records without a label that was asked for were skipped" in report.notes
    read(report.html)
    (run / "sft" / "training.json").write_text('{"steps": 1}')
    assert any("sft/training.json could not be shown" in note for note in build_report(run, run / "report.html").notes)


@pytest.mark.parametrize(
    ("file", "keys", "value", "said"),
    [
        ("table5/table5.json", ("arms", "ours", "confusion", "counts"), [[1]], "arms.ours.confusion: counts of 1 rows"),
        ("table5/table5.json", ("references",), "24", "key references: found '24'; expected a whole number"),
        ("table5/table5.json", ("arms",), {}, "key arms: "),
        (
            "table5/table5.json",
            ("by_split",),
            {"test": {"references": 1, "arms": {}, "baselines": {}}},
            "by_split.test.arms has no ",
        ),
        ("table6/table6.json", ("seeds",), {}, "'seeds' has no 'base', which is an arm"),
        ("mds/mds.json", ("arms", "base", "k"), None, "key arms.base.k: found None; expected a whole number"),
        ("panel/panel.json", ("items", 0, "predictions"), {}, "items[0].predictions has no base"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(
    run: Path, file: str, keys: tuple[str | int, ...], value: object, said: str
) -> None:
    found = json.loads((run / file).read_text())
    at = found
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    (run / file).write_text(json.dumps(found))
    assert any(f"{file} could not be shown" in note and said in note for note in build_report(run, run / "report.html").notes)


def test_a_map_without_its_points_is_named(run: Path) -> None:
    np.savez(run / "mds" / "mds.npz", coords_0=np.zeros((2, 3)), labels_0=np.array(["awe", "fear"]))
    assert any("coords_0 and labels_0: expected numbers of shape (N, 2)" in note for note in RunSections(run).notes)


def test_a_bug_of_ours_is_no_damaged_file(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page has the rest, and says what it has not; the command ends as every bug does."""

    def show(kind: Kind, result: StageResult) -> Shown:
        if kind.key == "mds":
            raise KeyError("our own bug")
        return shown(kind, result)

    shown = Kind.show
    monkeypatch.setattr(Kind, "show", show)
    assert main(["report", str(run)]) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert "KeyError: 'our own bug'" in said
    assert "while mds/mds.json of" in said
    assert "this is a bug in emo-lightning" in said
    text = read(run / "report.html")
    assert "mds/mds.json could not be shown, by a bug of emo-lightning: KeyError: 'our own bug'" in text
    assert "Table 5, strict mode" in text
    run_folder = RunSections(run)
    assert [type(bug) for bug in run_folder.bugs] == [KeyError]


def test_several_bugs_are_all_raised(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(kind: Kind, result: StageResult) -> Shown:
        raise TypeError(kind.key)

    monkeypatch.setattr(Kind, "show", show)
    with pytest.raises(ExceptionGroup) as caught:
        build_report(run, run / "report.html")
    assert [str(bug) for bug in caught.value.exceptions] == ["table5", "table6", "mds", "panel", "data"]


def test_a_file_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"notes\.txt: a file; expected a run directory"):
        RunSections(tmp_path / "notes.txt")
    with pytest.raises(MissingFileError, match="no such run directory"):
        RunSections(tmp_path / "none")


def test_losses_of_many_trainings_are_counted_and_not_all_drawn(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    csv = next(run.rglob("metrics.csv"))
    for n in range(3):
        (csv.parent / f"{n}").mkdir()
        shutil.copy(csv, csv.parent / f"{n}" / csv.name)
    drawn = len(next(section for section in RunSections(run).sections if section.key == "training").figures)
    assert drawn >= 4
    monkeypatch.setattr("emo_lightning.report.sections.MAX_CURVES", 2)
    sections = RunSections(run)
    assert len(next(section for section in sections.sections if section.key == "training").figures) == 2
    assert any(f"the losses of 2 of {drawn} trainings are drawn" in note for note in sections.notes)


def test_a_training_with_several_starts_is_one_curve(run: Path) -> None:
    csv = next(run.rglob("metrics.csv"))
    before = len(next(section for section in RunSections(run).sections if section.key == "training").figures)
    for n in (1, 2, 10):
        folder = csv.parent.parent / f"logs/version_{n}"
        folder.mkdir(parents=True)
        shutil.copy(csv, folder / csv.name)
    assert len(next(section for section in RunSections(run).sections if section.key == "training").figures) == before + 1


def test_a_stage_that_the_experiment_has_no_more_is_left_out(tmp_path: Path) -> None:
    """Nobody goes on there, and its numbers are of no stage of the run."""
    for name, status in {"kept": "complete", "renamed": "failed"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text(json.dumps({"stage": name, "kind": "table6", "status": status}))
    assert [stage.name for stage in RunFolder(tmp_path, set()).stages] == ["kept", "renamed"]
    (tmp_path / "experiment.yaml").write_text("name: t\ndir: runs/t\nstages: {kept: {run: table6}}\n")
    run = RunFolder(tmp_path, set())
    assert [stage.name for stage in run.stages] == ["kept"]
    assert run.unfinished() == []
    assert run.notes == ["renamed: left out, as the experiment has no stage of that name (any more)"]
