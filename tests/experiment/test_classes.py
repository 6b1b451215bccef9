"""What an experiment names is refused before it is imported, wherever in it the name stands, unless it is below a package that is trusted."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from emo_lightning.cli import main
from emo_lightning.experiment.arguments import check
from emo_lightning.experiment.classes import ALLOW_CLASSES, allowing, set_policy
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.stage import Stage

CALLBACKS = "lightning.pytorch.callbacks"
LOGGERS = "lightning.pytorch.loggers"
PLANTED = {"class_path": "planted.Callback"}


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file where it is imported, and holds a callback; the file that it leaves."""
    mark = tmp_path / "imported"
    text = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nfrom lightning.pytorch.callbacks import Timer as Callback\n"
    (tmp_path / "planted.py").write_text(text + "class Own(Callback):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv(ALLOW_CLASSES, raising=False)
    sys.modules.pop("planted", None)
    return mark


def stage(trainer: dict[str, Any], model: dict[str, Any] | None = None) -> Stage:
    """An `sft` stage with these settings."""
    config = {"model": {"backbone": {"path": "m"}, **(model or {})}, "data": {"train": ["a"], "val": ["b"]}, "trainer": trainer}
    config["data"]["objectives"] = {"emotion": 1.0}
    return Stage("s", "sft", "s", config, Path("nowhere"))


REFUSED: dict[str, Any] = {
    "callback": {"callbacks": [PLANTED]},
    "one callback": {"callbacks": PLANTED},
    "by its name alone": {"callbacks": ["planted.Callback"]},
    "logger as text": {"logger": "planted.Callback"},
    "argument of a callback": {
        "callbacks": [
            {
                "class_path": f"{CALLBACKS}.RichProgressBar",
                "init_args": {"console_kwargs": {"stderr": {"class_path": "subprocess.Popen"}}},
            }
        ]
    },
    "dict_kwargs": {
        "logger": [{"class_path": "lightning.pytorch.loggers.WandbLogger", "dict_kwargs": {"settings": [{"x": PLANTED}]}}]
    },
    "nested init_args": {
        "strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"accelerator": PLANTED}}
    },
    "re-exported by an allowed package": {"callbacks": [{"class_path": "emo_lightning.core.errors.os.system"}]},
    "function of torch": {"callbacks": [{"class_path": "torch.hub.load", "init_args": {"repo_or_dir": "a/b", "model": "c"}}]},
    "function as text": {
        "callbacks": [{"class_path": f"{CALLBACKS}.LambdaCallback", "init_args": {"setup": "torch.hub.load"}}]
    },
    "own function as an argument": {
        "callbacks": [{"class_path": f"{CALLBACKS}.LambdaCallback", "init_args": {"setup": "planted.x"}}]
    },
    "class of another kind": {
        "callbacks": [
            {
                "class_path": f"{CALLBACKS}.LambdaCallback",
                "init_args": {"setup": {"class_path": "torch.package.PackageImporter", "init_args": {"file_or_buffer": "x"}}},
            }
        ]
    },
    "a name like an allowed one": {"callbacks": [{"class_path": "torchevil.Callback"}]},
    "the package alone": {"callbacks": [{"class_path": "torch"}]},
    "no name": {"callbacks": [{"class_path": ["planted", "Callback"]}]},
    "with a path in it": {"callbacks": [{"class_path": "torch/../planted.Callback"}]},
    "interpolation left as text": {"callbacks": [{"class_path": "${oc.env:HOME}"}]},
    "service in a logger's settings": {
        "logger": [{"class_path": f"{LOGGERS}.WandbLogger", "dict_kwargs": {"settings": {"base_url": "x"}}}]
    },
    "service deep in settings": {
        "logger": [{"class_path": f"{LOGGERS}.WandbLogger", "dict_kwargs": {"config": [{"a": {"X-Proxies": ["x"]}}]}}]
    },
    "program in settings": {
        "logger": [{"class_path": f"{LOGGERS}.WandbLogger", "dict_kwargs": {"settings": {"x_executable": "/tmp/x"}}}]
    },
    "files in settings": {
        "logger": [{"class_path": f"{LOGGERS}.WandbLogger", "dict_kwargs": {"settings": {"config_paths": ["/etc/x"]}}}]
    },
    "checkpoints sent away": {
        "callbacks": [{"class_path": f"{CALLBACKS}.ModelCheckpoint", "init_args": {"dirpath": "s3://example/x"}}]
    },
    "in the callbacks of a callback": {
        "callbacks": [
            {
                "class_path": f"{CALLBACKS}.LambdaCallback",
                "init_args": {"callbacks": [{"init_args": {"x": "simplecache::s3://example/x"}}]},
            }
        ]
    },
    "the run's folder sent away": {"default_root_dir": "gs://example/x"},
    "keys with points": {"logger.class_path": f"{LOGGERS}.MLFlowLogger", "logger.init_args.save_dir": "x"},
    "keys with points in a class": {"logger": {"class_path": f"{LOGGERS}.CSVLogger", "init_args.save_dir": "x"}},
    "a logger as JSON": {
        "logger": '{"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking\\u005furi": "x"}}'
    },
    "address of a logger": {
        "logger": [
            {"class_path": "lightning.pytorch.loggers.MLFlowLogger", "init_args": {"tracking_uri": "http://example.org"}}
        ]
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_it_is_imported(name: str, planted: Path) -> None:
    with pytest.raises(ExperimentError, match=r"^stage 's' \(sft\): trainer\.") as caught:
        check(stage(REFUSED[name]))
    assert "\n" not in str(caught.value)
    assert not planted.exists()
    assert "planted" not in sys.modules
    assert "torchevil" not in sys.modules


def test_anywhere_else_in_the_settings(planted: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"model\.backbone\.lora\.class_path: found 'planted.Callback'; allowed: a class below"
    ):
        check(stage({}, {"backbone": {"path": "m", "lora": PLANTED}}))
    with pytest.raises(ExperimentError, match=r"references\[0\]\.class_path"):
        check(Stage("t", "table5", "t", {"predictions": {"a": "x"}, "references": [PLANTED]}, Path("nowhere")))
    assert not planted.exists()


def test_what_a_person_trusts_is_allowed_as_long_as_he_says_so(planted: Path) -> None:
    short = {"callbacks": ["ModelCheckpoint", {"class_path": f"{CALLBACKS}.Timer", "init_args": {"duration": "00:01:00:00"}}]}
    check(stage(short))
    own = stage({"callbacks": [{"class_path": "planted.Own", "init_args": {"duration": "00:01:00:00"}}]})
    with allowing(["planted"]):
        check(own)
    assert planted.exists()
    with pytest.raises(
        ExperimentError, match=r"class_path: found 'planted.Own'; allowed: a class below lightning\., torch\., "
    ):
        check(own)
    with pytest.raises(ExperimentError, match=r"--allow-classes a-b: expected a package"), allowing(["planted,a-b"]):
        pass


def test_a_file_that_a_text_names_is_no_way_round(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, given in (
        ("class", PLANTED),
        ("service", {"class_path": f"{LOGGERS}.MLFlowLogger", "init_args": {"tracking_uri": "x"}}),
    ):
        Path(f"{name}.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
        for trainer in ({"logger": f"{name}.yaml"}, {"logger": [f"{name}.yaml"]}, {"callbacks": f"{name}.yaml"}):
            with pytest.raises(ExperimentError, match=r"^stage 's' \(sft\): trainer\."):
                check(stage(trainer))
    assert not planted.exists()


def test_what_a_logger_is_told_besides() -> None:
    settings = {"console": "off", "x_disable_stats": True}
    said = {"settings": settings, "notes": "see the wiki, https://example.org", "config": {"api_key": None}}
    check(stage({"logger": [{"class_path": f"{LOGGERS}.WandbLogger", "init_args": {"project": "p"}, "dict_kwargs": said}]}))
    check(stage({"callbacks": [{"class_path": f"{CALLBACKS}.ModelCheckpoint", "init_args": {"dirpath": "file:///x"}}]}))


def test_nothing_is_made_where_an_argument_takes_anything() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=dict[str, Any])
    set_policy()
    given = {"value": {"a": {"class_path": "torch.nn.Identity"}}}
    made = parser.instantiate_classes(parser.parse_object(given))
    assert not isinstance(made.value["a"], torch.nn.Module)


@pytest.mark.parametrize(
    "command", [["run", "--print_config"], ["run"], ["sweep", "--check"], ["sweep", "--local"]], ids=" ".join
)
def test_the_commands(command: list[str], planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    experiment = tmp_path / "e.yaml"
    body = {
        "run": "des",
        "data": {"train": "a", "val": "b"},
        "model": {},
        "trainer": {"callbacks": [PLANTED], "max_epochs": "${vars.n}"},
    }
    experiment.write_text(yaml.safe_dump({"vars": {"n": 1}, "stages": {"d": body}}))
    sweep = tmp_path / "s.yaml"
    words = ["${env}", "emo", "sweep", "--trial", "${program}", "${args_json}"]
    parameters = {"vars.n": {"values": [1, 2]}}
    content = {
        "program": str(experiment),
        "method": "grid",
        "metric": {"name": "d/val/loss"},
        "parameters": parameters,
        "command": words,
    }
    sweep.write_text(yaml.safe_dump(content))
    file = str(experiment if command[0] == "run" else sweep)
    assert main([command[0], file, *command[1:], "--runs", str(tmp_path / "runs")]) == 2
    assert "trainer.callbacks[0].class_path: found 'planted.Callback'; allowed: a class below" in capsys.readouterr().err
    assert not planted.exists()


def test_a_stage_read_from_a_folder_is_checked(planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": "sft", **stage({"callbacks": [PLANTED]}).config}))
    assert main(["_stage", str(folder)]) == 2
    assert "found 'planted.Callback'" in capsys.readouterr().err
    assert not planted.exists()
