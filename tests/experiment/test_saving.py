"""When a training saves itself, where it goes on, and that a signal loses no step."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from emo_lightning.cli import main
from emo_lightning.core.checkpoints import CheckpointFileError, read_checkpoint
from emo_lightning.core.endings import ENDING, StoppedError
from emo_lightning.experiment.arguments import problems
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.files import ROOT, read_yaml
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint, set_damaged_aside
from emo_lightning.experiment.processes import make_temporary_folder, remove_temporary_folders
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.experiment.saving import (
    LAST_CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    STAGE_KEY,
    SaveEvery,
    saved_to,
    split_config,
)
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.whole_checkpoints import WholeCheckpoints
from tests.made import write_two_stages
from tests.ranks import run_ranks


class Saves(Callback):
    """Notes the steps at which a checkpoint is written, and sends this process a signal at one of them.

    Args:
        kill_at: step; 0 for none.
    """

    def __init__(self, kill_at: int = 0) -> None:
        self.kill_at = kill_at
        self.steps: list[int] = []

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if self.kill_at and trainer.global_step == self.kill_at - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        self.steps.append(trainer.global_step)


def stage_in(out: Path, **config: object) -> Stage:
    return Stage("tune", "sft", "tune", dict(config), out)


def nine_steps(out: Path, callbacks: Sequence[Callback], *, enable_checkpointing: bool) -> Trainer:
    """In three epochs; nothing is logged or shown."""
    return Trainer(
        accelerator="cpu",
        default_root_dir=out,
        callbacks=[*callbacks],
        enable_checkpointing=enable_checkpointing,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_train_batches=3,
        limit_val_batches=0,
        max_epochs=3,
    )


def train(out: Path, every: SaveEvery | None = None, *callbacks: Callback, kill_at: int = 0) -> list[int]:
    """Nine steps in three epochs, from the newest checkpoint; returns the steps at which it was saved."""
    stage, saves = stage_in(out), Saves(kill_at)
    trainer = nine_steps(out, [saves, *callbacks], enable_checkpointing=bool(callbacks))
    keeper = watch(trainer, stage, every)
    with ENDING.watched():
        trainer.fit(BoringModel(), ckpt_path=newest_checkpoint(Checkpoints.of(stage)), weights_only=True)
    assert trainer.global_step == 9
    keeper.check(trainer)
    return saves.steps


@pytest.mark.parametrize(
    ("every", "steps"),
    [(SaveEvery(steps=2), [2, 4, 6, 8]), (SaveEvery(minutes=1e-9), list(range(1, 10))), (SaveEvery(steps=5, minutes=1e6), [5])],
)
def test_it_saves_as_often_as_asked(every: SaveEvery, steps: list[int], tmp_path: Path) -> None:
    assert train(tmp_path, every) == steps
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]


def test_a_signal_saves_the_step_and_the_next_start_goes_on_there(tmp_path: Path) -> None:
    """Another interval is no other training; and whoever saves later takes the same file, not a `last-v1.ckpt` that nobody finds."""
    folder = tmp_path / "checkpoints"
    with pytest.raises(StoppedError, match="stopped after step 4 by SIGTERM, and saved") as stopped:
        train(tmp_path, SaveEvery(steps=100), kill_at=4)
    assert stopped.value.code == 143
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 4
    assert not (folder / PREVIOUS_CHECKPOINT).exists()
    saver = ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=2)
    with pytest.raises(StoppedError):
        train(tmp_path, None, saver, kill_at=5)
    assert read_checkpoint(folder / PREVIOUS_CHECKPOINT)["global_step"] == 4
    assert train(tmp_path, SaveEvery(steps=7)) == [7]
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == 7
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize("key", ["steps", "minutes"])
def test_an_interval_of_nothing_is_refused(key: str) -> None:
    config = {"model": {"path": "x"}, "data": {"train": [], "val": []}, "save_every": {key: 0}}
    (found,) = problems(Stage("clip", "clip", "clip", config, Path("x")))
    assert f"save_every.{key}: found 0" in found


def test_it_is_a_setting_of_where_and_not_of_what() -> None:
    plain, other = (stage_in(Path("x"), trainer={}, **more).digest for more in ({}, {"save_every": {"steps": 3}}))
    assert plain == other


def test_the_command_line_sets_it_for_every_training() -> None:
    words = [("save_every.minutes", "10"), ("round1.save_every.steps", "500")]
    stages = {stage.name: stage for stage in load_experiment(ROOT / "experiments/emoverse.yaml", words).stages}
    assert stages["round1"].config["save_every"] == {"minutes": 10, "steps": 500}
    assert stages["probe-base-0"].config["save_every"] == {"minutes": 10}
    assert "save_every" not in stages["table6"].config
    assert problems(stages["round1"]) == []


def test_callbacks_of_the_shipped_settings_give_way() -> None:
    config = read_yaml(ROOT / "configs/trainer/default.yaml")
    plain, every = split_config({**config, "save_every": {"minutes": 5}})
    names = [one["class_path"].rpartition(".")[2] for one in plain["trainer"]["callbacks"]]
    assert (names, plain["trainer"]["enable_checkpointing"]) == (["LearningRateMonitor", "SampleLogger"], False)
    assert every == SaveEvery(minutes=5)
    # What keeps the best one has another purpose.
    head = read_yaml(ROOT / "configs/trainer/head.yaml")
    assert split_config({**head, "save_every": {"steps": 5}})[0] == head
    assert split_config(config) == (config, None)


LOGGERS: list[tuple[type[Logger], dict[str, object]]] = [
    (CSVLogger, {"save_dir": "logs [1]"}),
    (CSVLogger, {"save_dir": "logs", "name": "a/b"}),
    (CSVLogger, {"save_dir": "logs", "name": "", "version": "x"}),
    (WandbLogger, {"offline": True}),
    (WandbLogger, {"offline": True, "save_dir": "~", "project": "p", "version": "v"}),
    (WandbLogger, {"offline": True, "dir": "logs", "id": "v"}),
]


@pytest.mark.parametrize("named", [False, True], ids=["Lightning's own callback", "one of the settings"])
@pytest.mark.parametrize(("logger", "given"), LOGGERS)
def test_where_lightning_saves_by_its_logger(
    logger: type[Logger], given: dict[str, object], named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path / "out", logger=logger(**given))
    (saver,) = trainer.checkpoint_callbacks
    saver.setup(trainer, BoringModel(), "fit")
    assert isinstance(saver, ModelCheckpoint)
    assert saver.dirpath
    path = checkpoint(Path(saver.dirpath, "a.ckpt").absolute(), 1, "mine")
    settings = {"class_path": f"lightning.pytorch.loggers.{logger.__name__}", "init_args": given}
    savers = [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}] if named else None
    patterns = saved_to({"trainer": {"logger": [settings], "callbacks": savers}})
    assert newest_checkpoint(Checkpoints(tmp_path / "out", "mine", elsewhere=tuple(patterns))) == path
    assert newest_checkpoint(Checkpoints(tmp_path / "out", "not mine", elsewhere=tuple(patterns))) is None


def checkpoint(path: Path, step: int, digest: str | None = None, weights: torch.Tensor | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {} if weights is None else {"weight": weights}
    tree = {"state_dict": state, "epoch": 0, "global_step": step, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    torch.save(tree | ({} if digest is None else {STAGE_KEY: digest}), path)
    return path


def test_the_newest_of_all_that_were_left(tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"

    def newest() -> Path | None:
        return newest_checkpoint(Checkpoints(out, "mine", elsewhere=(f"{elsewhere}/*.ckpt",)))

    assert newest() is None
    last = checkpoint(out / "checkpoints/last.ckpt", 20)
    checkpoint(out / ".tmp/half.ckpt", 90)
    assert newest() == last
    of_slurm = checkpoint(out / "hpc_ckpt_1.ckpt", 34)
    assert newest() == of_slurm
    checkpoint(elsewhere / "of-another-stage.ckpt", 80, "other")
    checkpoint(elsewhere / "of-an-older-release.ckpt", 81)
    assert newest() == of_slurm
    mine = checkpoint(elsewhere / "mine.ckpt", 35, "mine")
    assert newest() == mine
    by_default = checkpoint(out / "lightning_logs/version_0/checkpoints/epoch=0.ckpt", 36)
    assert newest() == by_default


def test_a_folder_of_checkpoints_that_is_a_link(tmp_path: Path) -> None:
    """To a larger disk, where nothing but `save_every` saves: the next start does not begin anew."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/checkpoints").symlink_to(tmp_path / "disk")
    checkpoint(tmp_path / "disk/last.ckpt", 7)
    assert newest_checkpoint(Checkpoints(tmp_path / "out")) == tmp_path / "out/checkpoints/last.ckpt"


def test_a_damaged_one_is_named_and_nobody_goes_back_in_silence(tmp_path: Path) -> None:
    older = checkpoint(tmp_path / "checkpoints/step=4.ckpt", 4)
    last = checkpoint(tmp_path / "checkpoints/last.ckpt", 8)
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(CheckpointFileError) as refused:
        newest_checkpoint(Checkpoints(tmp_path))
    assert str(refused.value).startswith(f"{last}: ")
    assert str(refused.value).endswith(f"; remove it, or add --go-back, to go on from {older} (step 4)")


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    """Anywhere in the weights; torch itself goes on with another model."""
    older = checkpoint(tmp_path / "checkpoints/step=4.ckpt", 4)
    last = checkpoint(tmp_path / "checkpoints/last.ckpt", 8, weights=torch.full((64,), 1.5))
    whole = last.read_bytes()
    start = whole.index(torch.full((64,), 1.5).numpy().tobytes())
    for at in range(start, start + 256, 51):
        last.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(CheckpointFileError) as refused:
            newest_checkpoint(Checkpoints(tmp_path))
        assert "has changed since it was written (its checksum is another)" in str(refused.value)
        assert str(refused.value).endswith(f"; remove it, or add --go-back, to go on from {older} (step 4)")
    last.write_bytes(whole)
    assert newest_checkpoint(Checkpoints(tmp_path)) == last


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    folder = make_temporary_folder(tmp_path)
    (folder / "tmpdef").touch()
    assert make_temporary_folder(tmp_path) == folder
    assert not list(folder.iterdir())


def test_a_node_that_was_killed_whole_leaves_nothing(tmp_path: Path) -> None:
    """Whose ranks no later start has; the next one, on however many ranks, removes what they were writing."""
    experiment, stage = write_two_stages(tmp_path), tmp_path / "runs/two/first"
    left = [stage / ".tmp/rank-0-1-9-0/half.ckpt", stage / ".tmp/of version 0.2.0"]
    left[0].parent.mkdir(parents=True)
    for path in left:
        path.touch()

    def run() -> None:
        raise SystemExit(main(["run", str(experiment), "--runs", str(tmp_path / "runs"), "--only", "first"]))

    run_ranks(run)
    assert (stage / "stage.json").exists()
    assert not list(stage.glob(".tmp/*"))


@pytest.mark.parametrize("alone", [True, False])
def test_nothing_is_left_of_ranks_that_are_no_more(alone: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose number no later start has; where a launcher has started one command on each rank, others may still work."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    other = make_temporary_folder(tmp_path)
    monkeypatch.delenv("LOCAL_RANK")
    own = make_temporary_folder(tmp_path)
    remove_temporary_folders(tmp_path, alone=alone)
    assert (own.exists(), other.exists()) == (False, not alone)


def test_a_checkpoint_is_staged_where_it_is_renamed(tmp_path: Path) -> None:
    other = tmp_path / "other-disk"
    other.mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / "checkpoints").symlink_to(other)
    assert make_temporary_folder(out).is_relative_to(other)


@pytest.fixture(params=["here", "linked"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Of checkpoints: in the run's folder, or a link from there to another file system."""
    place = tmp_path / "out/checkpoints"
    if request.param == "here":
        place.mkdir(parents=True)
        yield place
        return
    if not os.access("/dev/shm", os.W_OK) or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        place.parent.mkdir()
        place.symlink_to(other)
        yield place


def saved(folder: Path, step: int) -> None:
    state = {"weight": torch.full((5_000,), float(step))}
    tree = {"state_dict": state, "epoch": 0, "global_step": step, "loops": {}, "optimizer_states": [], "lr_schedulers": []}
    WholeCheckpoints().save_checkpoint(tree, folder / LAST_CHECKPOINT)


@pytest.mark.parametrize("moment", ["half written", "before it is kept", "before it is renamed"])
def test_killed_while_a_checkpoint_is_written(folder: Path, moment: str) -> None:
    saved(folder, 1)
    saved(folder, 2)

    def killed() -> None:
        write, replace = Path.write_bytes, Path.replace
        renames: list[Path] = []

        def half(path: Path, data: bytes) -> int:
            write(path, data[: len(data) // 2])
            os._exit(9)

        def dies(path: Path, target: Path) -> Path:
            if len(renames) == (moment == "before it is renamed"):
                os._exit(9)
            renames.append(path)
            return replace(path, target)

        if moment == "half written":
            Path.write_bytes = half  # type: ignore[assignment, method-assign]
        Path.replace = dies  # type: ignore[assignment, method-assign]
        saved(folder, 3)

    child = multiprocessing.get_context("fork").Process(target=killed)
    child.start()
    child.join()
    assert child.exitcode == 9
    assert list(folder.glob("*.tmp"))
    last = newest_checkpoint(Checkpoints(folder.parent))
    assert last is not None
    assert read_checkpoint(last)["global_step"] == 2
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    watch(trainer, stage_in(folder.parent))
    assert not list(folder.glob("*.tmp"))
    saved(folder, 3)
    assert [read_checkpoint(folder / name)["global_step"] for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)] == [3, 2]


def test_where_a_file_has_one_name_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    for step in (1, 2, 3):
        saved(folder, step)
    assert [read_checkpoint(folder / name)["global_step"] for name in (LAST_CHECKPOINT, PREVIOUS_CHECKPOINT)] == [3, 2]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]


def damages(whole: bytes, scratch: Path) -> Iterator[bytes]:
    """Twenty of them: cut, filled, flipped, joined, and something else altogether."""
    draw = random.Random(0)
    weights = whole.index(torch.full((5_000,), 2.0).numpy().tobytes())
    directory = whole.rindex(b"PK\x01\x02")
    yield from (whole[: int(len(whole) * share)] for share in (0.0, 0.1, 0.5, 0.9, 0.999))
    yield whole[:-1]
    yield whole[1000:]
    yield bytes(len(whole))
    yield whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    yield from (flipped(whole, weights + draw.randrange(20_000)) for _ in range(4))
    yield flipped(whole, whole.index(b"state_dict") + 2)
    yield flipped(whole, directory + 42)
    yield flipped(whole, whole.index(b"optimizer_states") + 1)
    yield b"<html><body>404 Not Found</body></html>"
    yield whole[: len(whole) // 2] * 2
    with zipfile.ZipFile(scratch, "w") as other:
        other.writestr("readme.txt", "no checkpoint")
    yield scratch.read_bytes()
    torch.save({"weight": torch.zeros(3)}, scratch)
    yield scratch.read_bytes()


def test_each_of_twenty_damages_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "out/checkpoints"
    saved(folder, 1)
    saved(folder, 2)
    whole, named = (folder / LAST_CHECKPOINT).read_bytes(), 0
    for data in damages(whole, tmp_path / "scratch"):
        (folder / LAST_CHECKPOINT).write_bytes(data)
        with pytest.raises(CheckpointFileError) as refused:
            newest_checkpoint(Checkpoints(folder.parent))
        assert str(refused.value).startswith(f"{folder / LAST_CHECKPOINT}: "), data[:20]
        assert str(refused.value).endswith(
            f"; remove it, or add --go-back, to go on from {folder / PREVIOUS_CHECKPOINT} (step 1)"
        )
        named += 1
    assert named == 20


def test_go_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "checkpoints"
    saved(folder, 1)
    saved(folder, 2)
    set_damaged_aside(Checkpoints(tmp_path))
    assert capsys.readouterr().err == ""
    (folder / LAST_CHECKPOINT).unlink()
    shutil.copyfile(folder / PREVIOUS_CHECKPOINT, folder / LAST_CHECKPOINT)
    (folder / LAST_CHECKPOINT).write_bytes((folder / LAST_CHECKPOINT).read_bytes()[:-1])
    set_damaged_aside(Checkpoints(tmp_path))
    assert capsys.readouterr().err == f"{folder / LAST_CHECKPOINT}: damaged; it is called last.ckpt.damaged now\n"
    assert newest_checkpoint(Checkpoints(tmp_path)) == folder / PREVIOUS_CHECKPOINT
    (folder / PREVIOUS_CHECKPOINT).write_bytes(b"")
    set_damaged_aside(Checkpoints(tmp_path))
    assert newest_checkpoint(Checkpoints(tmp_path)) is None
