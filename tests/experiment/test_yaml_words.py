"""`off` is a word where a setting takes text, and false where it takes true or false, wherever it is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.core.label_map import read_label_map
from emo_lightning.experiment.arguments import check
from emo_lightning.experiment.files import parse_value
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.sweep.config import load_sweep
from emo_lightning.sweep.remote import parse_trial

TEXT = """
vars: {{cache: {cache}}}
stages:
  round1:
    run: sft
    model: {{backbone: {{path: m, vision_cache: "${{vars.cache}}", compile: {compile}}}}}
    data: {{train: [a], val: [b], objectives: {{emotion: 1}}}}
    trainer:
      logger: {logger}
      callbacks: [{{class_path: lightning.pytorch.callbacks.LearningRateMonitor, init_args: {{log_momentum: {momentum}}}}}]
"""


def written(folder: Path, cache: str = "auto", compile: str = "false", logger: str = "false", momentum: str = "true") -> Path:
    path = folder / "x.yaml"
    path.write_text(TEXT.format(cache=cache, compile=compile, logger=logger, momentum=momentum))
    return path


@pytest.mark.parametrize("option", [True, False], ids=["option", "file"])
def test_the_vision_cache_is_switched_off_as_its_documentation_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: bool
) -> None:
    path = written(tmp_path) if option else written(tmp_path, cache="off")
    given = ["--round1.model.backbone.vision_cache", "off"] if option else []
    assert main(["run", str(path), "--print_config", *given]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["stages"]["round1"]["model"]["backbone"]["vision_cache"] == "off"


def test_words_are_booleans_where_these_are_asked_for_and_the_digest_is_that_of_booleans(tmp_path: Path) -> None:
    """YAML 1.1 read them so: a run made before is still that run."""
    (words,) = load_experiment(written(tmp_path, compile="yes", logger="Off", momentum="on")).stages
    check(words)
    assert words.config["model"]["backbone"]["compile"] is True
    (plain,) = load_experiment(written(tmp_path, compile="true", logger="false", momentum="true")).stages
    assert words.config == plain.config
    assert words.digest == plain.digest
    (given,) = load_experiment(written(tmp_path), [("trainer.logger", "no"), ("model.backbone.compile", "on")]).stages
    assert given.config["trainer"]["logger"] is False
    assert given.config["model"]["backbone"]["compile"] is True


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "Off", "NO"])
def test_words_of_the_command_line_stay_words(word: str) -> None:
    assert parse_value(word) == word
    assert parse_trial(["experiments/demo.yaml", f"--vars.x={word}"])[1] == {"vars.x": word}


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("TRUE", True), ("null", None), ("3", 3)])
def test_what_is_true_false_null_or_a_number_stays_so(text: str, value: object) -> None:
    assert parse_value(text) is value


def test_a_sweep_may_vary_it(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "program: experiments/demo.yaml\nmethod: grid\nmetric: {name: x/y, goal: maximize}\n"
        "command: ['${env}', emo, sweep, --trial, '${program}', '${args_json}']\n"
        "parameters: {model.backbone.vision_cache: {values: [auto, off]}}\n"
    )
    (parameter,) = load_sweep(path).varied
    assert parameter.values == ("auto", "off")


def test_a_label_may_be_called_no(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text("{joy: amusement, no: null}")
    assert read_label_map(path)["no"] is None
