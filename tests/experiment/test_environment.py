"""No key of the user's gets into the files of a run, whatever an experiment asks for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from emo_lightning.cli import main
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.resolve import load_experiment

KEY = "sk-never-to-be-written-0123456789"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the user's, and a variable that is none."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("EMO_VAR_DATA", "some data")


def experiment(tmp_path: Path, reference: object, **more: object) -> Path:
    """An experiment of one table that reads a file of this name."""
    path = tmp_path / "e.yaml"
    stage = {"run": "table5", "predictions": {"a": "x.jsonl"}, "references": [reference], **more}
    path.write_text(yaml.safe_dump({"vars": {"env": "env", "x": 1}, "stages": {"t": stage}}))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:OPENAI_API_KEY}",
        "${oc.env:OPENAI_API_KEY,none}",
        "x/${oc.${vars.env}:OPENAI_API_KEY}",
        "${oc.decode:'${oc.env:OPENAI_API_KEY}'}",
        "${oc.coerce:str,${oc.env:OPENAI_API_KEY}}",
        "\\${oc.env:OPENAI_API_KEY}",
        KEY,
        f"Bearer {KEY}",
    ],
)
def test_a_key_is_refused_and_not_shown(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    for more in ([], ["--print_config"]):
        assert main(["run", str(experiment(tmp_path, text)), "--runs", str(runs), *more]) == 2
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    assert "stage 't'" in shown.err
    assert not runs.exists()


def test_by_an_override_a_title_or_a_variable(tmp_path: Path) -> None:
    path = experiment(tmp_path, "${vars.x}", title="${oc.env:OPENAI_API_KEY}")
    with pytest.raises(
        ExperimentError, match="variable OPENAI_API_KEY: what an experiment reads of the environment is written"
    ):
        load_experiment(path)
    path = experiment(tmp_path, "y")
    for value in ("${oc.env:OPENAI_API_KEY}", KEY):
        with pytest.raises(ExperimentError, match="OPENAI_API_KEY") as caught:
            load_experiment(path, [("vars.x", json.dumps(value))])
        assert KEY not in str(caught.value)


def test_what_is_no_secret_is_read(tmp_path: Path) -> None:
    config = (
        load_experiment(experiment(tmp_path, "${oc.env:EMO_VAR_DATA}/${oc.env:SCRATCH,nowhere}/${oc.env:HOME}"))
        .stages[0]
        .config
    )
    assert config["references"] == [f"some data/{os.environ.get('SCRATCH', 'nowhere')}/{os.environ['HOME']}"]
    with pytest.raises(ExperimentError, match="variable EMO_VAR_NO is not set"):
        load_experiment(experiment(tmp_path, "${oc.env:EMO_VAR_NO}"))


def test_omegaconf_is_left_as_it_was(tmp_path: Path) -> None:
    load_experiment(experiment(tmp_path, "y"))
    assert OmegaConf.to_container(OmegaConf.create({"a": "${oc.env:OPENAI_API_KEY}"}), resolve=True) == {"a": KEY}


def test_no_module_is_imported_by_an_interpolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "imported"
    (tmp_path / "planted_kinds.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExperimentError, match=r"oc\.coerce imports what it names"):
        load_experiment(experiment(tmp_path, "${oc.coerce:planted_kinds.Kind,1}"))
    assert not mark.exists()
