from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning import cli
from emo_lightning.analysis.table5_rows import SCORING_MODES
from emo_lightning.commands import eval as eval_command
from emo_lightning.commands import report as report_command
from emo_lightning.core.records import Emotion, Prediction, Record, SchemaError, write_jsonl
from emo_lightning.experiment.files import ROOT
from emo_lightning.report.tables.table5 import table5_page
from emo_lightning.stages.tables import table5_stage


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    common: dict[str, Any] = {"source": "made", "width": 20, "height": 20, "sha256": "0" * 64, "split": "test"}
    write_jsonl(
        tmp_path / "r.jsonl", [Record(id="a", emotion=Emotion.AWE, **common), Record(id="b", emotion=Emotion.FEAR, **common)]
    )
    write_jsonl(tmp_path / "p.jsonl", [Prediction(id="a", emotion="Awe")])
    return str(tmp_path / "p.jsonl"), str(tmp_path / "r.jsonl")


def test_json(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_command.main([*files, "--json", "--mode", "strict"]) == 0
    arm = json.loads(capsys.readouterr().out)["arms"]["p"]
    assert arm["strict"]["emotion_acc"] == 50
    assert "paper" not in arm


def test_table_of_both_modes(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert eval_command.main(list(files)) == 0
    out = capsys.readouterr().out
    assert "paper mode" in out
    assert "strict mode" in out
    assert "1 missing predictions" in out


def test_stage_prints_one_narrow_table_and_leaves_the_rest_to_the_page(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "q.jsonl", [Prediction(id="b", emotion="fear", intensity=4)])
    arms = {"base": Path(files[0]), "tuned": tmp_path / "q.jsonl"}
    about = {"tuned": "fine-tuned on two images"}
    table5_stage(tmp_path / "out", arms, [files[1]], against="base", resamples=50, about=about)
    out = capsys.readouterr().out
    assert out.count("━┓") == 1, "one table"
    assert max(map(len, out.splitlines())) <= 80
    assert "without looking" in out
    assert "tuned: fine-tuned on two images" in out
    result = json.loads((tmp_path / "out" / "table5.json").read_text())
    assert result["paired"]["arms"]["tuned"]["strict"]["emotion_acc"]
    assert sum(table.key.endswith("-paired") for table in table5_page(result).tables) == len(SCORING_MODES)
    with pytest.raises(SchemaError, match="about: 'other' is no arm; allowed: base, tuned"):
        table5_stage(tmp_path / "out", arms, [files[1]], about={"other": "x"})
    for name in ("table5", "demo"):
        assert yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text())["stages"]["table5"]["against"] == "base"


def test_a_missing_file_is_one_line(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["eval", "nowhere.jsonl", files[1]], ["calibrate", "nowhere.jsonl", files[1]]):
        assert cli.main(command) == 2
        assert capsys.readouterr().err == "error: nowhere.jsonl: no such file\n"


def test_eval_names_the_bad_line(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "a"}\n{"id": 3}\n')
    with pytest.raises(SchemaError, match=r"bad\.jsonl:2: key 'id'"):
        eval_command.main([str(tmp_path / "bad.jsonl"), files[1]])


def test_report(tmp_path: Path, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "ab":
        shutil.copytree(finished_run, tmp_path / name)
        (tmp_path / name / "report.html").unlink(missing_ok=True)
    assert report_command.main([str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "a" / "report.html")
    assert (tmp_path / "a" / "report_tables" / "all.md").exists()
    assert report_command.main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path / "report-a-b.html")
    assert report_command.main([str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "x" / "both.html")]) == 0
    assert (tmp_path / "x" / "both_tables").is_dir()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--out", "x.pdf"], r"ends in \.html"),
        (["--samples", "-1"], "--samples -1: expected at least 0"),
        (["--project", "p"], "--wandb"),
    ],
)
def test_report_names_what_it_cannot_use(options: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        report_command.main([str(tmp_path), *options])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["eval", "report"])
def test_help_has_an_example_and_loads_nothing_heavy(name: str) -> None:
    code = (
        f"import sys\nfrom emo_lightning.commands.{name} import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'matplotlib', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert f"emo {name}" in done.stdout.split("examples:")[1]
