"""A run folder that somebody else made cannot make the page run scripts, or show files from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from emo_lightning.analysis.references import References
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import SchemaError, write_jsonl
from emo_lightning.core.tables.csv import as_csv
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.markdown import markdown
from emo_lightning.core.tables.table import Column, Table
from emo_lightning.core.tables.terminal import drawn_by_rich
from emo_lightning.report.examples import right_and_wrong
from emo_lightning.report.pictures import AnsweredImage, embedded, with_boxes
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import RunFolder, own_file
from emo_lightning.report.sections import RunSections
from tests.made import make_prediction, make_record, write_tar

ANSWER: dict[str, object] = {
    "description": None,
    "background": None,
    "attribute": None,
    "subject": None,
    "emotion": "awe",
    "intensity": 3,
    "boxes": [],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one finished stage, and a secret beside it."""
    stage = tmp_path / "run/panel"
    (stage / "panel").mkdir(parents=True)
    (stage / "stage.json").write_text(json.dumps({"kind": "panel", "status": "complete", "stage": "panel"}))
    (stage / "config.yaml").write_text("run: panel\n")
    Image.new("RGB", (8, 8)).save(stage / "panel/00.jpg")
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    (tmp_path / "secret.txt").write_text("SECRET")
    return tmp_path / "run"


def write_panel(run: Path, **changes: object) -> None:
    """The panel of one image, with changes."""
    item = {"id": "a", "image": "panel/00.jpg", "size": [8, 8], "split": "test", "truth": ANSWER, "predictions": {"ours": None}}
    panel = {"arms": ["ours"], "seed": 0, "of": 1, "items": [{**item, **changes}]}
    (run / "panel/panel.json").write_text(json.dumps(panel))


def test_a_panel_embeds_pictures_of_its_own_run_alone(run: Path) -> None:
    write_panel(run)
    assert RunSections(run).section("panel") is not None
    (run / "panel/panel/link.jpg").symlink_to(run.parent / "secret.jpg")
    (run / "panel/panel/text.jpg").write_text("SECRET")
    changes: list[dict[str, object]] = [
        {"image": str(run.parent / "secret.jpg")},
        {"image": "/etc/passwd"},
        {"image": "../../secret.jpg"},
        {"image": "panel/link.jpg"},
        {"image": "panel/text.jpg"},
        {"image": "panel"},
        {"image": 3},
        {"size": ['8" onload="alert(1)', 8]},
        {"size": [True, 8]},
        {"size": 8},
        {"id": 7},
        {"truth": {**ANSWER, "intensity": "x"}},
        {"truth": {**ANSWER, "boxes": [["1", 2, 3, 4]]}},
        {"truth": [1]},
    ]
    for change in changes:
        write_panel(run, **change)
        sections = RunSections(run)
        assert sections.section("panel") is None, change
        assert any("panel.json could not be shown" in note for note in sections.notes), change


@pytest.mark.parametrize("name", ["config.yaml", "stage.json", "page.json", "metrics.csv", "training.json"])
def test_links_out_of_the_run_are_not_followed(run: Path, name: str) -> None:
    (run / "panel" / name).unlink(missing_ok=True)
    (run / "panel" / name).symlink_to(run.parent / "secret.txt")
    sections = RunSections(run)
    assert "SECRET" not in str([sections.notes, [(s.config, s.info, s.settings) for s in sections.run.stages]])
    with pytest.raises(SchemaError, match="lies outside the run's folder"):
        own_file(run, run / "panel" / name)


def test_a_drawing_is_the_data_of_an_image(tmp_path: Path) -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(2)</script><a href="javascript:x">y</a></svg>'
    )
    (tmp_path / "a.svg").write_text(svg)
    shown = str(embedded(tmp_path / "a.svg", '"><script>'))
    assert shown.startswith('<img class="drawing" alt="&#34;&gt;&lt;script&gt;" src="data:image/svg+xml;base64,')
    assert "alert" not in shown
    (tmp_path / "a.png").write_text("SECRET")
    with pytest.raises(InputError, match=r"a\.png: not an image"):
        embedded(tmp_path / "a.png", "a")


def test_sizes_of_a_picture_are_numbers() -> None:
    item = AnsweredImage(id="a", size=['8"'], split=None, truth=ANSWER, predictions={})  # type: ignore[list-item, typeddict-item]
    with pytest.raises(InputError, match="expected a whole number"):
        with_boxes(item, b"", [])


def test_no_renderer_of_tables_takes_a_text_for_more() -> None:
    hostile = "=cmd|' /C calc'!A0 \x1b[31m \u202e <script> \\input{/etc/passwd} [red]"
    table = Table("k", hostile, [Column("a", hostile)], [[hostile]])
    rich = drawn_by_rich(table)
    for text in (str(rich.title), markdown(table), latex(table)):
        assert "\x1b" not in text
        assert "\u202e" not in text
    assert "<script>" not in markdown(table).replace("\\<script\\>", "")
    assert "\\input{" not in latex(table)
    assert as_csv(table).splitlines()[1].startswith("'=cmd")


def test_no_sample_of_tars_that_the_run_has_not_seen(tmp_path: Path) -> None:
    """A run folder of others names our tars, and guesses the ids in them."""
    records = [make_record(key, [(1, 1, 9, 9)], emotion="awe", intensity=3) for key in ("a", "b")]
    tar, _ = write_tar(tmp_path / "private-000000.tar", records)
    (shared,) = References.load([str(tar)]).records[:1]
    run = tmp_path / "run"
    (run / "predict").mkdir(parents=True)
    (run / "link.jsonl").symlink_to(tmp_path / "mine.jsonl")
    for file, digests in {
        run / "unsaid.jsonl": (None, None),
        run / "guessed.jsonl": ("0" * 64, "1" * 64),
        run / "one.jsonl": (shared.sha256, None),
        tmp_path / "mine.jsonl": tuple(record.sha256 for record in References.load([str(tar)]).records),
    }.items():
        write_jsonl(
            file, [make_prediction(key, emotion="awe", sha256=digest) for key, digest in zip("ab", digests, strict=True)]
        )
    stage = run / "table5"
    stage.mkdir()
    (stage / "stage.json").write_text(json.dumps({"kind": "table5", "status": "complete", "stage": "table5"}))
    (stage / "table5.json").write_text("{}")

    def shown(*files: str) -> list[str]:
        settings = {"run": "table5", "references": [str(tar)], "predictions": {Path(file).stem: file for file in files}}
        (stage / "config.yaml").write_text(json.dumps(settings))
        folder = RunFolder(run, {"table5.json"})
        source = Sources(folder).of(folder.stages[0])
        found = folder.attempt(stage, lambda: right_and_wrong(folder, folder.stages[0], source, 4))
        assert found is not None or any("no samples: " in note for note in folder.notes)
        return [picture["id"] for picture in (*found.right, *found.wrong)] if found else []

    assert shown(f"{run}/unsaid.jsonl") == []
    assert shown(f"{run}/guessed.jsonl") == []
    assert shown(f"{run}/link.jsonl") == []
    assert shown(f"{tmp_path}/mine.jsonl") == []
    assert shown(f"{run}/one.jsonl") == ["a"]
    assert shown(f"{run}/one.jsonl", f"{tmp_path}/mine.jsonl") == ["a"]
    tar.rename(run / "own-000000.tar")
    tar = run / "own-000000.tar"
    assert shown(f"{run}/unsaid.jsonl") == ["a", "b"]
