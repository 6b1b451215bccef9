from __future__ import annotations

import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import yaml

from emo_lightning.core.colours import EMOTION_COLOURS, EMOTION_MARKERS
from emo_lightning.core.records import EMOTIONS, SchemaError, write_jsonl
from emo_lightning.report.build import build_report
from emo_lightning.report.examples import Examples
from emo_lightning.report.kinds import KINDS, Kind
from emo_lightning.report.page import Page, PageFigure, read_page, write_page
from emo_lightning.report.panel import choose
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import RunFolder
from emo_lightning.report.sections import RunSections
from emo_lightning.report.svg import overlay_svg, read_losses
from emo_lightning.report.table import Cell, Column, Result, Spread, Table, columns
from emo_lightning.stages import tables as stages
from tests.made import book, make_prediction, make_record, write_tar

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Balance(HTMLParser):
    """Every element that opens closes, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(page: Path) -> str:
    """The page's text, after the checks that hold for every page."""
    html = re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", page.read_text())
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    assert not re.search(r"(https?:)?//[a-z]", html), "an address outside the page"
    assert not re.search(r"<(script|link)|@import|url\((?!#)", html)
    assert set(re.findall(r"<iframe[^>]*?(sandbox=\S+)", html)) <= {'sandbox="allow-scripts"'}
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:href|src)="([^"]*)"', html))
    return re.sub(r"\s+", " ", " ".join(parser.text))


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A finished run to change."""
    return Path(shutil.copytree(finished_run, tmp_path / "runs" / finished_run.name))


def page(runs: Path | list[Path], out: Path) -> str:
    """Text of the report over these runs."""
    return read(build_report(runs, out).html)


def test_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages.report_stage(run / "report", run)
    assert str(run / "report.html") in capsys.readouterr().out
    text = read(run / "report.html")
    for expected in (
        "small & <odd>",
        "BBox IoU",
        "Intensity kappa",
        "constant, mean box",
        "50.00",
        "Figure 6 in numbers",
        "24 of 24",
        "<b>cat</b>",
        "a dog <on> the beach",
        "note: <script>",
        "1 min 11 s",
        "discarded",
        "img9",
        "train/loss",
        "stage 'probe-0' failed",
        "4 missing predictions",
        "CLIP rows were not computed",
        "the references themselves",
        "95 % intervals",
        "Confusion, ours",
        "Table 5 by emotion, base",
        "one seed for base",
        "ours names the emotion of 12 of 24 images rightly",
    ):
        assert expected in text, expected
    written = json.loads((run / "report" / "report.json").read_text())
    assert any("CLIP rows" in note for note in written["notes"])
    assert Path(written["tables"], "table5-strict.tex").is_file()


def test_every_table_and_figure_says_what_it_came_from(run: Path) -> None:
    html = build_report(run, run / "report.html").html.read_text()
    settings = yaml.safe_load((run / "table5" / "config.yaml").read_text())
    digest = hashlib.sha256(Path(settings["references"][0], "manifest.json").read_bytes()).hexdigest()
    shown = len(re.findall(r"<table(?: class=\"matrix\")?>", html)) + html.count('<svg class="chart"') + html.count("<iframe")
    # All but the list of stages, which holds commit and config itself; the panel and the answers have one each.
    assert len(re.findall(r"Source: ", html)) >= shown - 1 + 2
    about = re.search(r"Table 5, strict mode.*?<details class=\"source\">(.*?)</details>", html, re.DOTALL)
    assert about
    for expected in ("emo run small.yaml --only table5", "abc1234", "f" * 64, digest):
        assert expected in about[1]


def test_a_map_to_explore_takes_the_place_of_the_still_one(run: Path) -> None:
    book(run / "mds", "mds", {})
    html = build_report(run, run / "report.html").html.read_text()
    section = html[html.index('<h2 id="mds">') : html.index('<h2 id="panel">')]
    assert section.count("<iframe") == 1
    assert 'class="chart"' not in section
    (run / "mds" / "page.json").unlink()
    still = build_report(run, run / "report.html").html.read_text()
    assert "<iframe" not in still
    assert "MDS of the emotion embeddings of base" in still


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


def test_two_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(run, run.parent / "other"))
    table5 = json.loads((other / "table5" / "table5.json").read_text())
    table5["arms"]["ours"]["strict"]["emotion_acc"] += 12.5
    (other / "table5" / "table5.json").write_text(json.dumps(table5))
    text = page([run, other], tmp_path / "both.html")
    assert "Table 5, strict mode, side by side" in text
    assert "+12.50" in text
    assert "do not compare" not in text
    table5["definition"] = "0" * 64
    (other / "table5" / "table5.json").write_text(json.dumps(table5))
    (other / "table6" / "table6.json").unlink()
    text = page([run, other], tmp_path / "both.html")
    assert "different versions of the definitions: the numbers do not compare" in text
    assert "other: stage 'table6' is complete but has no table6.json" in text
    assert "Table 6, test, side by side" not in text
    with pytest.raises(ValueError, match="each once"):
        build_report([run, run], tmp_path / "both.html")


def test_a_stage_of_unknown_kind_is_shown(run: Path) -> None:
    stage = run / "calibration"
    book(stage, "calibrate", {})
    (stage / "drawing.svg").write_text('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><text>inside</text></svg>')
    (stage / "active.svg").write_text("<svg><script>alert(1)</script></svg>")
    (stage / "whole.html").write_text("<!doctype html><script>1</script>")
    names = ("drawing.svg", "active.svg", "whole.html")
    table = Table("ece", "ECE", columns("arm", "ECE ↓"), [["base", Spread(4.125, 3.0, 5.5)], ["ours", float("nan")]], "15 bins")
    write_page(stage, Page("Calibration", "How sure it is.", [table], [PageFigure(n, n) for n in names], ["3 had no scores"]))
    report = build_report(run, run / "report.html")
    html, text = report.html.read_text(), read(report.html)
    for expected in ("Calibration", "How sure it is.", "15 bins", "inside", "3 had no scores", "1 numbers are not finite"):
        assert expected in text, expected
    assert '4.12 <span class="about">[3.00, 5.50]</span>' in html
    assert "<script" not in html, "what is active stays in an image or a frame"
    assert '<img class="drawing" alt="active.svg" src="data:image/svg+xml;base64,' in html
    assert (run / "report_tables" / "calibration-ece.csv").read_text().splitlines()[
        0
    ] == "arm,ECE ↓,ECE ↓ low,ECE ↓ high,sources"


def test_a_new_table_is_one_builder_and_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `emo_lightning.report` says."""

    def table9_tables(found: Result) -> list[Table]:
        return [Table("table9", "Table 9", columns("arm", "value"), [[arm, value] for arm, value in found.items()])]

    monkeypatch.setitem(KINDS, "table9", Kind("table9.json", "Table 9", "table9", "Table 9: why not", table9_tables))
    (run / "nine").mkdir()
    (run / "nine" / "table9.json").write_text('{"base": 1.5, "ours": 2.5}')
    report = build_report(run, run / "report.html")
    text = read(report.html)
    assert "Table 9: why not" in text
    assert next(table for table in report.tables if table.key == "table9").cell("ours", "value") == 2.5
    assert (report.tables_dir / "nine-table-9.tex").is_file()


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


def test_a_page_keeps_all_of_a_table(tmp_path: Path) -> None:
    shown = [Column("arm", "arm"), Column("ece", "ECE ↓"), Column("floor", "ECE ↓", quiet=True)]
    rows: list[list[Cell]] = [["base", Spread(4.1, 3.0, 5.5), None], ["ours", Spread(3.0, std=0.5), 7]]
    table = Table(
        "calibration-ece",
        "ECE",
        shown,
        rows,
        "15 bins",
        3,
        row_keys=["base/test", "ours/test"],
        best={(1, 1)},
        lower_is_better={"base/test"},
        quiet_note="nobody looked.",
        groups=[("", 1), ("test", 2)],
        arms_across=True,
        shade={(0, 1): 0.5},
        folded=True,
    )
    write_page(tmp_path, Page("Calibration", tables=[table]))
    assert read_page(tmp_path / "page.json").tables == [table]


def test_a_page_without_keys_still_opens(tmp_path: Path) -> None:
    """As they were written before 0.2.0."""
    body = {"title": "Paths", "tables": [{"columns": ["arm", "chance", "chance"], "rows": [["a", 1, True], ["a", 2, None]]}]}
    (tmp_path / "page.json").write_text(json.dumps(body))
    (table,) = read_page(tmp_path / "page.json").tables
    assert (table.key, table.title, table.column_keys) == ("paths", "Paths", ["arm", "chance", "chance-2"])
    assert (table.row_keys, table.rows[0]) == (["a", "a-2"], ["a", 1, "yes"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[]", "the file: found list; expected an object"),
        ("{", "not JSON: EOF while parsing"),
        ('{"text": "t"}', "the file: key 'title' is missing; expected figures, notes, tables, text, title"),
        ('{"title": "t", "tables": 3}', "key tables: found int; expected a list"),
        ('{"title": "t", "tables": [{"columns": [1], "rows": []}]}', "key tables[0].columns[0]: found 1; expected a text"),
        ('{"title": "t", "tables": [{"columns": ["x"], "row": []}]}', "key tables[0]: unknown key 'row'; allowed: arms_across"),
        (
            '{"title": "t", "tables": [{"columns": [], "rows": [], "digits": 11}]}',
            "key tables[0].digits: found 11; expected a whole number from 0 to 10",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x"], "rows": [[NaN]]}]}',
            "key tables[0].rows[0][0]: found nan; expected a finite number, a text, null or an object with 'value'",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x"], "rows": [[{"value": 1, "low": "a"}]]}]}',
            "key tables[0].rows[0][0].low: found 'a'; expected a finite number or null",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x"], "rows": [[{"valu": 1}]]}]}',
            "key tables[0].rows[0][0]: unknown key 'valu'; allowed: high, low, std, value",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x", "x"], "rows": [], "column_keys": ["a", "a"]}]}',
            "key tables[0].column_keys: 1 keys that differ; expected 2, one for each of columns",
        ),
    ],
)
def test_a_page_says_which_key_is_wrong(body: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(body)
    with pytest.raises(SchemaError) as error:
        read_page(tmp_path / "page.json")
    assert str(error.value).startswith(f"{tmp_path / 'page.json'}: {expected}")


def test_empty_run(tmp_path: Path) -> None:
    assert "holds no stage yet" in page(tmp_path, tmp_path / "report.html")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_report(tmp_path / "nowhere", tmp_path / "report.html")


def test_nan_one_image_and_one_emotion_are_said(finished_run: Path, tmp_path: Path) -> None:
    records = [make_record("only", [(1, 1, 9, 9)], emotion="awe", intensity=3)]
    tar, _ = write_tar(tmp_path / "one-000000.tar", records)
    write_jsonl(tmp_path / "p.jsonl", [make_prediction("only", emotion="awe")])
    settings = {"predictions": {"ours": str(tmp_path / "p.jsonl")}, "references": [str(tar)]}
    run = tmp_path / "run"
    stages.table5_stage(run / "table5", {"ours": tmp_path / "p.jsonl"}, [str(tar)])
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
    assert (note in page(tmp_path / "run", tmp_path / "report.html")) is warned


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
        "b/mds.json could not be shown",
        "b/metrics.csv could not be shown: no column 'step'",
        "c/config.yaml could not be shown: not YAML",
        "stage 'b' was interrupted, or is still running",
        "stage 'c' is complete but has no table6.json",
        "not part of this run: image panel, dataset statistics",
    ):
        assert expected in text, expected


def test_a_run_that_was_moved_still_finds_its_data(tmp_path: Path) -> None:
    records = [make_record(f"i{n}", emotion=EMOTIONS[n]) for n in range(3)]
    (tmp_path / "new" / "world" / "tars").mkdir(parents=True)
    write_tar(tmp_path / "new" / "world" / "tars" / "w-000000.tar", records)
    (tmp_path / "new" / "world" / "tars" / "manifest.json").write_text("{}")
    (tmp_path / "new" / "experiment.yaml").write_text("dir: /gone/old\n")
    book(tmp_path / "new" / "sft", "sft", {"data": {"train": ["/gone/old/world/tars/*.tar"]}})
    book(tmp_path / "new" / "predict", "predict", {"model": {"path": "/gone/old/sft/adapter"}})
    run = RunFolder(tmp_path / "new", set())
    data = Sources(run).data(next(s for s in run.stages if s.name == "predict"))
    assert [d.path for d in data] == ["world/tars/manifest.json"]
    assert data[0].sha256 == hashlib.sha256(b"{}").hexdigest()
    (tmp_path / "new" / "world" / "tars" / "manifest.json").unlink()
    data = Sources(run).data(next(s for s in run.stages if s.name == "sft"))
    assert "without a manifest.json" in data[0].problem


def test_stages_refuse_what_they_cannot_use(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": ["a"], "des": [[1.0]]}), tmp_path / "des.parquet")
    with pytest.raises(SchemaError, match="no column emotion, split"):
        stages.mds_stage(tmp_path / "mds", {"base": tmp_path / "des.parquet"})
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        stages.mds_stage(tmp_path / "mds", {"base": tmp_path / "gone.parquet"})
    write_jsonl(tmp_path / "r.jsonl", [make_record("a")])
    write_jsonl(tmp_path / "p.jsonl", [make_prediction("a")])
    with pytest.raises(SchemaError, match="give the tars"):
        stages.panel_stage(tmp_path / "panel", {"base": tmp_path / "p.jsonl"}, [str(tmp_path / "r.jsonl")])
    with pytest.raises(SchemaError, match="no arm"):
        stages.table5_stage(tmp_path / "t", {}, [str(tmp_path / "r.jsonl")])
    assert not (tmp_path / "mds").exists()


def test_panel_choice_spreads_over_emotions() -> None:
    records = [make_record(str(n), emotion=EMOTIONS[0 if n < 90 else n % 8]) for n in range(100)]
    chosen = choose(records, 8, seed=0)
    assert len({records[i].emotion for i in chosen}) == 8
    assert chosen == choose(records, 8, seed=0)
    assert chosen != choose(records, 8, seed=1)
    assert len(choose(records, 500, seed=0)) == 100


def test_overlay_leaves_out_empty_boxes() -> None:
    svg = overlay_svg(b"x", "image/jpeg", (10, 10), [(1, 1, 5, 5)], {"a": [(5, 5, 5, 9), (0, 0, float("nan"), 3)], "b": []})
    assert svg.count('class="box true"') == 1
    assert "predicted dashed" not in svg


def test_losses_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,lr\n1,2.5,1e-3\n2,nan,1e-3\n3,,1e-3\n4,1.5,1e-3\n")
    assert read_losses(path) == {"train/loss": ([1.0, 4.0], [2.5, 1.5])}
    path.write_text("step,train/loss\n1,high\n")
    with pytest.raises(SchemaError, match=r"metrics\.csv:2: train/loss='high'"):
        read_losses(path)


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
        "labels": {"train": {"emotion": 90, "emotion_scores": 0}},
        "remarks": ["train: no record has emotion_scores"],
    }
    (run / "sft" / "training.json").write_text(json.dumps(found))
    report = build_report(run, run / "report.html")
    table = next(t for t in report.tables if t.key == "training")
    assert table.rows == [["sft", 90, 10, "emotion 90, emotion scores 0", 11, 24, 1234, "7"]]
    assert "stage 'sft': train: no record has emotion_scores" in report.notes
    assert "stage 'sft': 5 train records without a label that was asked for were skipped" in report.notes
    read(report.html)
    (run / "sft" / "training.json").write_text('{"steps": 1}')
    assert any("sft/training.json could not be shown" in note for note in build_report(run, run / "report.html").notes)


def test_every_emotion_has_its_own_colour_and_marker() -> None:
    assert len(set(EMOTION_COLOURS.values())) == len(set(EMOTION_MARKERS.values())) == len(EMOTIONS)
