"""Checkpoints in a folder outside of the run, which others may use as well."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from emo_lightning.core.checkpoints import CheckpointFileError, read_checkpoint
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint, saved_to, set_damaged_aside
from emo_lightning.experiment.saving import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, SaveEvery
from emo_lightning.experiment.stage import Stage, StageCutShortError
from tests.experiment.test_cut_short import StopAt
from tests.experiment.test_saving import checkpoint, flipped, nine_steps

WEIGHTS = torch.full((64,), 1.5)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    return Checkpoints(tmp_path / "out", "mine", ("mine before",), (tmp_path / "elsewhere",))


def cut(data: bytes) -> bytes:
    return data[:-100]


def emptied(data: bytes) -> bytes:
    return data[:0]


def another_weight(data: bytes) -> bytes:
    return flipped(data, data.index(WEIGHTS.numpy().tobytes()) + 9)


def another_name(data: bytes) -> bytes:
    """As which it would be another's."""
    return flipped(data, data.index(b"mine") + 1)


@pytest.mark.parametrize("name", ["mine", "mine before"])
@pytest.mark.parametrize("damage", [cut, emptied, another_weight, another_name])
def test_a_damaged_one_is_named_and_set_aside(
    damage: Callable[[bytes], bytes], name: str, kept: Checkpoints, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder,) = kept.elsewhere
    older = checkpoint(folder / "step=10.ckpt", 10, "mine")
    last = checkpoint(folder / LAST_CHECKPOINT, 30, name, WEIGHTS)
    last.write_bytes(damage(last.read_bytes()))
    with pytest.raises(CheckpointFileError) as refused:
        newest_checkpoint(kept)
    assert str(refused.value).startswith(f"{last}: ")
    assert str(refused.value).endswith(f"; remove it, or add --go-back, to go on from {older} (step 10)")
    set_damaged_aside(kept)
    assert capsys.readouterr().err == f"{last}: damaged; it is called last.ckpt.damaged now\n"
    assert newest_checkpoint(kept) == older
    older.unlink()
    last.with_name("last.ckpt.damaged").rename(last)
    with pytest.raises(CheckpointFileError, match=f"^{last}: .*; remove it to start this stage from its beginning$"):
        newest_checkpoint(kept)


@pytest.mark.parametrize("damage", [cut, another_weight])
def test_a_damaged_one_of_another_is_its_own_to_name(damage: Callable[[bytes], bytes], kept: Checkpoints) -> None:
    theirs = checkpoint(kept.elsewhere[0] / LAST_CHECKPOINT, 30, "not mine", WEIGHTS)
    theirs.write_bytes(damage(theirs.read_bytes()))
    torch.save({"of": "another program"}, kept.elsewhere[0] / "model.ckpt")
    assert newest_checkpoint(kept) is None


def test_what_was_half_written_is_removed_if_nobody_else_writes_it(kept: Checkpoints) -> None:
    """On another machine, or in a container that had another name; elsewhere if it says whose it is, or was written here."""
    (folder,), dead = kept.elsewhere, os.getpid()
    while Path(f"/proc/{dead}").exists():
        dead += 1
    own = [
        kept.out / "checkpoints/last.ckpt.another-host.17.tmp",
        kept.out / "checkpoints/previous.ckpt.another-host.17.tmp",
        kept.out / f"logs/version_0/checkpoints/epoch=1.ckpt.{platform.node()}.{dead}.tmp",
    ]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    mine = checkpoint(folder / "last.ckpt.another-host.17.tmp", 1, "mine", WEIGHTS)
    mine.write_bytes(cut(mine.read_bytes()))
    here = folder / f"a.ckpt.{platform.node()}.{dead}.tmp"
    here.write_bytes(b"")
    theirs = checkpoint(folder / "b.ckpt.another-host.17.tmp", 1, "not mine")
    watched(Stage("tune", "sft", "tune", {}, kept.out))
    assert not any(path.exists() for path in own)
    stage = in_run(kept.out.parent, folder)
    watched(stage)
    assert (mine.exists(), here.exists(), theirs.exists()) == (True, False, True)
    checkpoint(mine, 1, Checkpoints.of(stage).digest)
    watched(stage)
    assert (mine.exists(), theirs.exists()) == (False, True)


def watched(stage: Stage) -> Trainer:
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    watch(trainer, stage)
    return trainer


def in_run(run: Path, folder: Path, data: str = "train.csv") -> Stage:
    """A training on a file, which saves to a folder of its settings."""
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"dirpath": str(folder)}}
    config = {
        "model": {"backbone": {"path": f"{run}/base"}},
        "data": {"train": [data], "val": []},
        "trainer": {"callbacks": [callback]},
    }
    return Stage("tune", "sft", "tune", config, run / "tune")


def train(stage: Stage, *stops: StopAt, every: SaveEvery | None = None) -> int:
    """Nine steps, saved by a callback as its settings say, or as `save_every` says; returns the step that it began at."""
    kept = Checkpoints.of(stage)
    begun = newest_checkpoint(kept)
    step = read_checkpoint(begun)["global_step"] if begun else 0
    assert isinstance(step, int)
    savers = (
        [] if every else [ModelCheckpoint(folder, save_last=True, every_n_train_steps=1) for folder in saved_to(stage.config)]
    )
    trainer = nine_steps(stage.out, [*stops, *savers], enable_checkpointing=bool(savers))
    keeper = watch(trainer, stage, every, begun)
    trainer.fit(BoringModel(), ckpt_path=begun, weights_only=True)
    keeper.check(trainer)
    return step


def half_done(tmp_path: Path) -> Stage:
    """Its folder holds nothing: a checkpoint elsewhere alone says how far it has come."""
    stage = in_run(tmp_path / "run", tmp_path / "elsewhere", str(tmp_path / "train.csv"))
    (tmp_path / "run/base").mkdir(parents=True)
    (tmp_path / "run/base/config.json").write_text("{}")
    (tmp_path / "run/base/model.safetensors").write_bytes(b"weights")
    (tmp_path / "train.csv").write_text("image,emotion\na.jpg,awe\n")
    with pytest.raises(StageCutShortError):
        train(stage, StopAt(5))
    shutil.rmtree(stage.out / "checkpoints")
    assert read_checkpoint(tmp_path / "elsewhere" / LAST_CHECKPOINT)["global_step"] == 5
    return stage


def test_it_is_found_when_run_and_data_have_moved(tmp_path: Path) -> None:
    half_done(tmp_path)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    shutil.move(tmp_path / "train.csv", tmp_path / "moved.csv")
    moved = in_run(tmp_path / "moved", tmp_path / "elsewhere", str(tmp_path / "moved.csv"))
    assert train(moved) == 5
    # Nobody goes back to the one before the last of a training that is done.
    assert [path.name for path in (tmp_path / "elsewhere").glob(PREVIOUS_CHECKPOINT)] == []


def test_that_of_another_training_is_not_taken(tmp_path: Path) -> None:
    """Which differs in what its inputs hold alone."""
    stage = half_done(tmp_path)
    (tmp_path / "run/base/model.safetensors").write_bytes(b"weighty")
    assert newest_checkpoint(Checkpoints.of(stage)) is None


def test_one_of_an_older_release_is_found(tmp_path: Path) -> None:
    stage = half_done(tmp_path)
    path = checkpoint(tmp_path / "elsewhere" / LAST_CHECKPOINT, 6, stage.digest)
    assert newest_checkpoint(Checkpoints.of(stage)) == path


def test_it_is_found_when_save_every_takes_the_callbacks_place(tmp_path: Path) -> None:
    assert train(half_done(tmp_path), every=SaveEvery(steps=2)) == 5
