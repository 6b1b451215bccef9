"""A run whose experiment, tars, model and folder have names that globs, YAML, addresses and Unicode read otherwise."""

from __future__ import annotations

import html
import json
import re
import shutil
import unicodedata
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.classes import ALLOW_CLASSES
from emo_lightning.inference.bundle import read_bundle, write_bundle

NAME = unicodedata.normalize("NFD", "a#b [1] ~x=y, {z} ü 2026-11-29")
SAVER = {
    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
    "init_args": {"dirpath": "${run.out}/checkpoints", "save_last": True, "save_top_k": 0, "every_n_train_steps": 1},
}
LOGGER = {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "${run.out}", "name": "logs"}}


@pytest.fixture
def place(tmp_path: Path, world_tars: Path, tiny_qwen: Path) -> Path:
    """A folder with tars, a model and an experiment, all of this name."""
    place = tmp_path / NAME
    for split in ("train", "val"):
        tar = place / NAME / f"{NAME}-{split}-0.tar"
        tar.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(next(world_tars.glob(f"*-{split}-*.tar")), tar)
    shutil.copytree(tiny_qwen, place / "m" / NAME)
    flag = place / f"flag {NAME}"
    flag.touch()
    crash = {"class_path": "tests.experiment.test_runner.CrashAt", "init_args": {"step": 1, "flag": str(flag)}}
    trainer = {"accelerator": "cpu", "max_steps": 2, "limit_val_batches": 1, "logger": [LOGGER], "enable_progress_bar": False}
    stage = {
        "run": "sft",
        "defaults": ["data/ces.yaml"],
        "model": {"backbone": {"path": "?"}},
        "data": {"train": ["${vars.tars}/*-train-*.tar"], "val": [f"{place}/{NAME}/{NAME}-val-0.tar"], "batch_size": 2},
        "trainer": {**trainer, "callbacks": [SAVER, crash]},
    }
    tree = {"name": "x", "vars": {"tars": "?"}, "stages": {"tune": stage}}
    (place / f"{NAME}.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
    return place


def test_it_trains_resumes_and_is_reported(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_CLASSES, "tests")
    monkeypatch.chdir(place)
    # As another machine spells it, too.
    given = ["--vars.tars", unicodedata.normalize("NFC", NAME), "--tune.model.backbone.path", f"m/{NAME}", "--name", NAME]
    command = ["run", f"{NAME}.yaml", "--runs", f"runs {NAME}", *given]
    assert main(command) == 1, "the crash"
    Path(f"flag {NAME}").unlink()
    assert main(command) == 0
    assert Path(f"flag {NAME}").with_suffix(".starts").read_text().split() == ["0", "1"]
    run = place / f"runs {NAME}" / NAME
    assert json.loads((run / "tune" / "stage.json").read_text(encoding="utf-8"))["status"] == "complete"
    assert (run / "tune" / "adapter" / "adapter_model.safetensors").is_file()
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    links = [html.unescape(link) for link in re.findall(r'(?:href|src)="([^"]*)"', page)]
    anchors = {html.unescape(found) for found in re.findall(r'id="([^"]*)"', page)}
    inside = {urllib.parse.unquote(link[1:]) for link in links if link.startswith("#")}
    beside = [urllib.parse.unquote(link) for link in links if not re.match(r"[a-z]+:|#", link)]
    assert inside <= anchors
    assert [link for link in beside if not (run / link).exists()] == []
    assert list((run / "report_tables").glob("*.csv"))


def test_a_model_is_asked(place: Path, bundle: Path, world_tars: Path) -> None:
    parts = read_bundle(bundle)
    head = shutil.copytree(parts.head, place / f"head {NAME}")
    model = place / f"model {NAME}"
    model.mkdir()
    write_bundle(model, replace(parts, head=str(head)))
    image = place / f"{NAME}.png"
    TarIndex.open(str(world_tars / "*-test-*.tar")).image(0).save(image)
    out = place / f"out {NAME}"
    asked = ["--model", unicodedata.normalize("NFC", str(model)), "--device", "cpu", "--out"]
    assert main(["explain", str(image), *asked, str(out)]) == 0
    assert main(["embed", str(image), *asked, f"{out}.parquet"]) == 0
    assert Path(f"{out}.parquet").is_file()
