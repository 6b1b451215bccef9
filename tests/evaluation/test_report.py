from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from emo_lightning.evaluation import stages
from emo_lightning.evaluation.figures import EMOTION_COLOURS, EMOTION_MARKERS, overlay_svg, read_losses
from emo_lightning.evaluation.panel import choose
from emo_lightning.evaluation.report import build_report
from emo_lightning.schema import EMOTIONS, Record, SchemaError, write_jsonl

from .conftest import make_prediction, make_record

VOID = {"meta", "br", "img", "link", "input", "hr"}
MakeTar = Callable[[list[Record]], tuple[Path, list[Record]]]


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
    assert not re.search(r"<(script|link|iframe)|@import|url\((?!#)", html)
    assert all(target.startswith(("#", "data:")) for target in re.findall(r'(?:href|src)="([^"]*)"', html))
    return re.sub(r"\s+", " ", " ".join(parser.text))


@pytest.fixture
def run(tmp_path: Path, make_tar: MakeTar) -> Path:
    """A run whose every figure is computed from small data by the real stages."""
    run = tmp_path / "runs" / "small & <odd>"
    records = [
        make_record(
            f"img{n}", [(10, 10, 60, 40)], emotion=EMOTIONS[n % 8], intensity=n % 10 + 1, description="a dog <on> the beach",
            background="beach", attribute="runs", subject="dog",
        )
        for n in range(24)
    ]  # fmt: skip
    tar, _ = make_tar(records)
    said = [
        make_prediction(r.id, [(12, 12, 55, 45)], emotion=r.emotion if n % 2 else "awe", intensity=4, subject="<b>cat</b>")
        for n, r in enumerate(records)
    ]
    write_jsonl(tmp_path / "base.jsonl", said[:20])
    write_jsonl(tmp_path / "ours.jsonl", said)
    arms = {"base": tmp_path / "base.jsonl", "ours": tmp_path / "ours.jsonl"}
    stages.table5_stage(run / "table5", arms, [str(tar)])
    stages.panel_stage(run / "panel", arms, [str(tar)], count=3, seed=1)
    vectors = np.random.default_rng(0).normal(size=(24, 16)).astype("float32")
    columns = {"id": [r.id for r in records], "emotion": [r.emotion for r in records], "split": ["test"] * 24}
    parquet.write_table(pa.table({**columns, "des": list(vectors)}), tmp_path / "des.parquet")
    stages.mds_stage(run / "mds", {"base": tmp_path / "des.parquet"})
    probe = run / "probe-0"
    (probe / "csv").mkdir(parents=True)
    scores = {f"{s}/{m}": 50.0 for s in ("test", "heldout") for m in ("accuracy", "precision", "recall", "f1")}
    (probe / "metrics.json").write_text(json.dumps(scores))
    (probe / "csv" / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,1,2.0,\n0,2,1.5,1.7\n1,4,nan,1.2\n")
    (probe / "config.yaml").write_text("seed: 0\nnote: <script>\n")
    (probe / "stage.json").write_text(
        json.dumps(
            {
                "stage": "probe-0",
                "kind": "probe",
                "status": "failed",
                "started": "2026-01-01T00:00:00",
                "seconds": 71.0,
                "commit": "abc",
                "command": "emo run small.yaml",
            }
        )
    )
    stages.table6_stage(run / "table6", {"base": [probe]})
    (run / "prep").mkdir()
    (run / "prep" / "prep.json").write_text(json.dumps({"images": 24, "emotions": {"awe": 3}, "discarded": ["img9", "img8"]}))
    return run


def test_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages.report_stage(run / "report", run)
    assert str(run / "report.html") in capsys.readouterr().out
    text = read(run / "report.html")
    for expected in (
        "small & <odd>", "BBox IoU", "Intensity kappa", "constant, mean box", "not computed", "50.00", "Stress-1", "24 of 24",
        "<b>cat</b>", "a dog <on> the beach", "note: <script>", "1 min 11 s", "discarded", "img9", "train/loss",
        "stage 'probe-0' failed", "4 missing predictions", "CLIP rows were not computed", "the references themselves",
    ):  # fmt: skip
        assert expected in text, expected


def test_tables_are_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stages.table6_stage(run / "table6", {"base": [run / "probe-0"]})
    assert "Table 6, heldout" in capsys.readouterr().out


def test_empty_run(tmp_path: Path) -> None:
    assert "holds no stage yet" in read(build_report(tmp_path, tmp_path / "report.html"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_report(tmp_path / "nowhere", tmp_path / "report.html")


def test_partial_run_names_what_is_damaged(tmp_path: Path) -> None:
    for name, kind, status in (("a", "table5", "complete"), ("b", "mds", "running"), ("c", "table6", "complete")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text(json.dumps({"stage": name, "kind": kind, "status": status}))
    (tmp_path / "a" / "table5.json").write_text('{"arms": ')
    (tmp_path / "b" / "mds.json").write_text('{"max_points": 3}')
    (tmp_path / "b" / "metrics.csv").write_text("epoch\n1\n")
    text = read(build_report(tmp_path, tmp_path / "report.html"))
    for expected in (
        "a/table5.json could not be shown: not JSON",
        "b/mds.json could not be shown",
        "b/metrics.csv could not be shown: no column 'step'",
        "stage 'b' was interrupted, or is still running",
        "stage 'c' is complete but has no table6.json",
        "no image panel",
    ):
        assert expected in text, expected


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


def test_every_emotion_has_its_own_colour_and_marker() -> None:
    assert len(set(EMOTION_COLOURS.values())) == len(set(EMOTION_MARKERS.values())) == len(EMOTIONS)
