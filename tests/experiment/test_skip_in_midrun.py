"""A training that an image has stopped goes on without it: what to do at such an image may be said in mid-run."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.core.files import write_text
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import inputs_of
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.status import changes_of, is_complete, write_config, write_status
from emo_lightning.models.tiny import words_of
from emo_lightning.models.tiny_clip import build_clip
from tests.data.test_tar_index import write_tar

BATCH = 4


def cut_images(path: Path, names: set[str]) -> None:
    """Write a tar anew in which some images end in their middle: what they are is known by their heads, and nothing else is wrong."""
    with tarfile.open(path) as tar:
        members = [(name, tar.extractfile(name)) for name in tar.getnames()]
        held = {name: file.read() for name, file in members if file is not None}
    write_tar(path, {name: data[: len(data) // 2] if name in names else data for name, data in held.items()})


@pytest.fixture
def experiment(world_tars: Path, tmp_path: Path) -> Path:
    """Two epochs, of whose fourth batch an image is cut off, and one of the sixth."""
    tars = tmp_path / "tars"
    tars.mkdir()
    for path in world_tars.glob("*.tar"):
        shutil.copy(path, tars / path.name)
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    order = [[slot.index for slot in batch] for batch in EpochBatches(len(index), BATCH, seed=0)]
    bad = {index.where(row, index.image_extension(row)).rsplit(":", 1)[1] for row in (order[3][1], order[5][2])}
    for path in tars.glob("*-train-*.tar"):
        cut_images(path, bad)
    model = build_clip(tmp_path / "clip", words_of([str(world_tars)]))
    trainer = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "logger": [
            {"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "${run.out}", "name": "logs"}}
        ],
    }
    tune = {
        "run": "clip",
        "model": {"path": str(model), "optim": {"lr": 1e-3}},
        "data": {
            "train": [f"{tars}/*-train-*.tar"],
            "val": [f"{tars}/*-val-*.tar"],
            "batch_size": BATCH,
            "num_workers": 0,
        },
        "trainer": trainer,
        "save_every": {"steps": 1},
    }
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump({"name": "small", "stages": {"tune": tune}}))
    return path


def losses(stage: Path) -> dict[int, str]:
    """By step, of all starts."""
    found: dict[int, str] = {}
    for path in sorted(stage.glob("logs/version_*/metrics.csv")):
        with path.open(encoding="utf-8") as file:
            found |= {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}
    return found


def test_it_goes_on_as_if_it_had_skipped_from_the_beginning(
    experiment: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(folder: str, *words: str) -> int:
        return main(["run", str(experiment), "--runs", str(tmp_path / folder), *words])

    skip, one, ten = ("--tune.data.on_error", "skip"), ("--tune.data.max_skipped", "1"), ("--tune.data.max_skipped", "10")
    whole, stage = tmp_path / "whole/small/tune", tmp_path / "stopped/small/tune"
    assert run("whole", *skip) == 0
    assert run("stopped") == 2
    assert read_checkpoint(stage / "checkpoints/last.ckpt")["global_step"] == 3
    assert ".tar:" in capfd.readouterr().err
    assert run("stopped", *skip, *one) == 2
    said = capfd.readouterr().err
    assert f"note: {stage} goes on with another setting: data.on_error: not given before, skip now\n" in said
    assert "2 images cannot be read, more than data.max_skipped=1" in said
    assert read_checkpoint(stage / "checkpoints/last.ckpt")["global_step"] == 5
    assert run("stopped", *skip, *ten) == 0
    assert "data.max_skipped: 1 before, 10 now\n" in capfd.readouterr().err
    assert losses(stage) == losses(whole)
    ours, theirs = (next(one.rglob("model.safetensors")).read_bytes() for one in (stage, whole))
    assert ours == theirs
    noted = json.loads((stage / "stage.json").read_text())["changed"]
    assert [one["setting"] for one in noted] == [
        "data.on_error: not given before, skip now",
        "data.max_skipped: not given before, 1 now",
        "data.max_skipped: 1 before, 10 now",
    ]
    assert "changed" not in json.loads((whole / "stage.json").read_text())
    # Done is done; but what it has left out would have stopped it.
    assert run("stopped", *skip, "--tune.data.max_skipped", "2") == 0
    assert run("stopped") == 2
    assert (
        "has left out 2 images that cannot be read, and data.on_error and data.max_skipped now allow 0"
        in capfd.readouterr().err
    )


def test_what_else_is_set_stays(tmp_path: Path) -> None:
    write_text(tmp_path / "x/config.json", "{}")
    write_text(tmp_path / "x/model.safetensors", "weights")
    path = str(tmp_path / "x")
    config = {"model": {"path": path, "seed": 1}, "data": {"train": [], "val": [], "on_error": "stop"}}
    stage = Stage("tune", "clip", "tune", config, tmp_path / "tune")
    assert changes_of(stage) == []
    stage.out.mkdir()
    write_config(stage)
    write_status(stage, "failed", 0.0, inputs_of(stage))
    (stage.out / "checkpoints").mkdir()
    config["data"] = {"train": [], "val": [], "on_error": "skip"}
    assert changes_of(stage) == ["data.on_error: stop before, skip now"]
    assert not is_complete(stage)
    config["model"] = {"path": path, "seed": 2}
    with pytest.raises(ExperimentError, match=r"other settings \(model\.seed: 1 there, 2 now\)"):
        is_complete(stage)
