from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from emo_lightning.core.errors import InputError
from emo_lightning.core.tables.table import Spread, Table, columns
from emo_lightning.report.build import build_report
from emo_lightning.report.page import Page, PageFigure, write_page
from emo_lightning.stages import report as stages
from emo_lightning.stages.tables import table5_stage
from tests.made import book
from tests.report.pages import page, read


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


def test_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no stage of a run"):
        build_report(tmp_path / "empty", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_report(tmp_path / "nowhere", tmp_path / "report.html")


def test_ratings_of_people_stand_on_the_page_where_references_have_some(tmp_path: Path) -> None:
    """Of `table5.json` as the stage writes it: a table with a row for each dimension and correlation, and its files."""
    truth = [
        {"id": f"i{n}", "emotion": "awe" if n % 3 else None, "arousal": {"mean": 1 + n % 8, "low": 1, "high": 9}}
        for n in range(12)
    ]
    said = [{"id": f"i{n}", "emotion": "awe", "arousal": (n % 8 - 3) / 4} for n in range(11)]
    for name, rows in (("truth", truth), ("ours", said)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stage = tmp_path / "run" / "table5"
    table5_stage(stage, {"ours": tmp_path / "ours.jsonl"}, [str(tmp_path / "truth.jsonl")], resamples=20)
    book(
        stage, "table5", {"predictions": {"ours": str(tmp_path / "ours.jsonl")}, "references": [str(tmp_path / "truth.jsonl")]}
    )
    report = build_report(tmp_path / "run", tmp_path / "report.html")
    (table,) = [table for table in report.tables if table.key == "affect"]
    assert table.row_keys == ["arousal_srcc", "arousal_plcc", "arousal_ccc"]
    assert "ours, arousal: 11 images, 1 without an answer, which are in no correlation" in table.note
    page = report.html.read_text()
    assert "Valence, arousal and dominance" in page
    assert "Arousal CCC" in page
    assert list((tmp_path / "report_tables").glob("*affect*.csv"))
    # Images without an emotion are in no accuracy: of the twelve eight have one, of which one has no answer.
    arm = json.loads((stage / "table5.json").read_text())["arms"]["ours"]
    assert sum(map(sum, arm["confusion"]["counts"])) == 8
    assert (arm["strict"]["emotion_acc"], arm["counts"]["references_without_emotion"]) == (87.5, 4)
