"""Checkpoints in a folder outside of the run, which others may use as well."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from emo_lightning.core.checkpoints import CheckpointFileError, read_checkpoint
from emo_lightning.core.files import this_writer
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint, set_damaged_aside
from emo_lightning.experiment.identity import content_digests, inputs_of
from emo_lightning.experiment.moved import follow_files
from emo_lightning.experiment.saving import LAST_CHECKPOINT, PREVIOUS_CHECKPOINT, SaveEvery
from emo_lightning.experiment.stage import Stage, StageCutShortError
from emo_lightning.experiment.status import checkpoints_of, is_complete, write_config, write_status
from tests.experiment.test_cut_short import StopAt
from tests.experiment.test_saving import checkpoint, flipped, nine_steps

WEIGHTS = torch.full((64,), 1.5)


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    return Checkpoints(tmp_path / "out", "mine", ("mine before",), (f"{tmp_path}/elsewhere/*.ckpt",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder elsewhere."""
    return tmp_path / "elsewhere"


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
    damage: Callable[[bytes], bytes], name: str, kept: Checkpoints, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
def test_a_damaged_one_of_another_is_its_own_to_name(damage: Callable[[bytes], bytes], kept: Checkpoints, folder: Path) -> None:
    theirs = checkpoint(folder / LAST_CHECKPOINT, 30, "not mine", WEIGHTS)
    theirs.write_bytes(damage(theirs.read_bytes()))
    torch.save({"of": "another program"}, folder / "model.ckpt")
    assert newest_checkpoint(kept) is None


def test_what_was_half_written_is_removed_if_nobody_else_writes_it(kept: Checkpoints, folder: Path) -> None:
    """On another machine, or in a container that had another name; elsewhere if it says whose it is, or was written here."""
    dead = os.getpid()
    while Path(f"/proc/{dead}").exists():
        dead += 1
    machine = this_writer().rpartition(".")[0]
    own = [
        kept.out / "checkpoints/last.ckpt.another-host.17.tmp",
        kept.out / "checkpoints/previous.ckpt.another-host.17.tmp",
        kept.out / f"logs/version_0/checkpoints/epoch=1.ckpt.{machine}.{dead}.tmp",
    ]
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    mine = checkpoint(folder / "last.ckpt.another-host.17.tmp", 1, "mine", WEIGHTS)
    mine.write_bytes(cut(mine.read_bytes()))
    here = folder / f"a.ckpt.{machine}.{dead}.tmp"
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
    (given,) = stage.config["trainer"]["callbacks"]
    savers = [] if every else [ModelCheckpoint(**given["init_args"], save_last=True, every_n_train_steps=1)]
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


def test_one_of_an_older_release_is_found_where_the_data_is_noted(tmp_path: Path) -> None:
    """It names the settings alone; without what `stage.json` notes it may be of other data."""
    stage = half_done(tmp_path)
    path = checkpoint(tmp_path / "elsewhere" / LAST_CHECKPOINT, 6, stage.digest)
    begun(stage)
    kept = checkpoints_of(stage, inputs_of(stage))
    assert kept is not None
    assert newest_checkpoint(kept) == path
    (stage.out / "stage.json").unlink()
    with pytest.raises(ExperimentError) as refused:
        is_complete(stage)
    assert str(refused.value) == (
        f"{path}: does not say that it was made with these settings and from this data, and there is no {stage.out}/stage.json that "
        f"would; put that back, save to another folder, or remove {path} to make it anew"
    )


def begun(stage: Stage) -> None:
    """As the runner leaves it behind when it is killed."""
    stage.out.mkdir(parents=True, exist_ok=True)
    inputs = inputs_of(stage)
    kept = checkpoints_of(stage, inputs)
    write_config(stage)
    write_status(stage, "running", 0.0, inputs, kept=kept)


def as_of_earlier_versions(stage: Stage, path: Path) -> None:
    """As the version before this one left them: the folder of the callback is a part of their name, and `stage.json` notes none."""
    digest, older = content_digests(stage, inputs_of(stage))
    assert read_checkpoint(path)["emo_stage"] == digest
    checkpoint(path, 5, older)
    write_config(stage)
    stage.out.joinpath("stage.json").unlink(missing_ok=True)
    write_status(stage, "running", 0.0, inputs_of(stage))


@pytest.mark.parametrize("earlier", [False, True], ids=["of this version", "of an earlier one"])
def test_it_is_found_when_its_folder_has_moved(earlier: bool, tmp_path: Path) -> None:
    """And the settings name the new one."""
    stage = half_done(tmp_path)
    begun(stage)
    if earlier:
        as_of_earlier_versions(stage, tmp_path / "elsewhere" / LAST_CHECKPOINT)
    shutil.move(tmp_path / "elsewhere", tmp_path / "larger disk [1]")
    moved = in_run(tmp_path / "run", tmp_path / "larger disk [1]", str(tmp_path / "train.csv"))
    assert not is_complete(moved)
    begun(moved)
    assert newest_checkpoint(Checkpoints.of(moved)) == tmp_path / "larger disk [1]" / LAST_CHECKPOINT
    # And by the start after that one.
    assert not is_complete(moved)
    begun(moved)
    assert newest_checkpoint(Checkpoints.of(moved)) == tmp_path / "larger disk [1]" / LAST_CHECKPOINT


def test_it_is_found_where_it_was_saved_when_the_next_start_saves_to_another_folder(tmp_path: Path) -> None:
    begun(half_done(tmp_path))
    other = in_run(tmp_path / "run", tmp_path / "other", str(tmp_path / "train.csv"))
    assert not is_complete(other)
    begun(other)
    assert newest_checkpoint(Checkpoints.of(other)) == tmp_path / "elsewhere" / LAST_CHECKPOINT
    assert train(other) == 5


def test_a_copy_of_a_run_leaves_what_the_other_saves_within_itself(tmp_path: Path) -> None:
    """It has a copy of its own, and the other may still write."""
    stage = in_run(tmp_path / "run", tmp_path / "run/saved", str(tmp_path / "train.csv"))
    (tmp_path / "train.csv").write_text("image,emotion\na.jpg,awe\n")
    (tmp_path / "run/base").mkdir(parents=True)
    begun(stage)
    checkpoint(tmp_path / "run/saved/last.ckpt", 5, Checkpoints.of(stage).digest)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    checkpoint(tmp_path / "run/saved/last.ckpt", 9, Checkpoints.of(stage).digest)
    copy = in_run(tmp_path / "copy", tmp_path / "copy/saved", str(tmp_path / "train.csv"))
    assert not is_complete(copy)
    begun(copy)
    assert newest_checkpoint(Checkpoints.of(copy)) == tmp_path / "copy/saved/last.ckpt"


@pytest.mark.parametrize("place", ["logs", "larger disk"])
def test_the_best_one_is_named_where_an_older_start_has_saved_it(place: str, tmp_path: Path) -> None:
    """A logger names its folder anew at each start, and others log beside it; all of it may have moved."""
    name = "epoch=2-step=6.ckpt"
    was = tmp_path / "logs/version_0/checkpoints" / name
    checkpoint(was, 6, "mine")
    checkpoint(tmp_path / "logs/version_7/checkpoints" / name, 6, "not mine")
    (tmp_path / "logs").rename(tmp_path / place)
    saver = ModelCheckpoint(tmp_path / place / "version_1/checkpoints", monitor="loss")
    note = {"dirpath": str(was.parent), "best_model_path": str(was), "best_k_models": {str(was): 0.5}}
    kept = Checkpoints(tmp_path / "out", "mine", elsewhere=(f"{tmp_path}/{place}/*/checkpoints/*.ckpt",))
    follow_files({"callbacks": {saver.state_key: note}}, [saver], kept)
    there = str(tmp_path / place / "version_0/checkpoints" / name)
    assert note == {"dirpath": saver.dirpath, "best_model_path": there, "best_k_models": {there: 0.5}}


@pytest.mark.parametrize("earlier", [False, True], ids=["of this version", "of an earlier one"])
def test_a_stage_that_has_made_but_checkpoints_elsewhere_is_compared(earlier: bool, tmp_path: Path) -> None:
    stage = half_done(tmp_path)
    begun(stage)
    if earlier:
        as_of_earlier_versions(stage, tmp_path / "elsewhere" / LAST_CHECKPOINT)
    other = in_run(tmp_path / "run", tmp_path / "elsewhere", str(tmp_path / "train.csv"))
    other.config["model"]["seed"] = 4
    with pytest.raises(ExperimentError, match=r"made with other settings \(model\.seed: None there, 4 now\)"):
        is_complete(other)
    assert not is_complete(stage)
    (tmp_path / "run/base/model.safetensors").write_bytes(b"weighty")
    with pytest.raises(ExperimentError, match=r"begun on other content of model\.backbone\.path"):
        is_complete(stage)


def test_a_stage_that_has_made_nothing_is_mended_beside_checkpoints_of_others(tmp_path: Path) -> None:
    half_done(tmp_path)
    stage = in_run(tmp_path / "run", tmp_path / "elsewhere", str(tmp_path / "train.csv"))
    stage.config["model"]["seed"] = 4
    begun(stage)
    stage.config["model"]["seed"] = 5
    (tmp_path / "run/base/model.safetensors").write_bytes(b"weighty")
    assert not is_complete(stage)
    begun(stage)
    assert newest_checkpoint(Checkpoints.of(stage)) is None


def test_it_is_found_when_save_every_takes_the_callbacks_place(tmp_path: Path) -> None:
    assert train(half_done(tmp_path), every=SaveEvery(steps=2)) == 5
