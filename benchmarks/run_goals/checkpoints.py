"""Goal 5: no kill tears a checkpoint, wherever it is, and a damaged one is named."""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from benchmarks.run_goals.lines import Given, Line, Tested, tested
from emo_lightning.core.checkpoints import CheckpointFileError
from emo_lightning.experiment.cut_short import watch
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint
from emo_lightning.experiment.processes import make_temporary_folder
from emo_lightning.experiment.saving import PREVIOUS_CHECKPOINT, SaveEvery
from emo_lightning.experiment.stage import Stage
from tests.ranks import start_each

OTHER_DISK = Path("/dev/shm")


class Larger(BoringModel):
    """Writes some megabytes."""

    def __init__(self) -> None:
        super().__init__()
        self.more = torch.nn.Linear(1000, 500)


def train(out: Path) -> None:
    """Saves after every step, as a stage's process does it."""
    tempfile.tempdir = str(make_temporary_folder(out))
    trainer = Trainer(
        accelerator="cpu",
        default_root_dir=out,
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        max_steps=100_000,
    )
    watch(trainer, stage_in(out), SaveEvery(steps=1))
    trainer.fit(Larger(), ckpt_path=newest_checkpoint(Checkpoints.of(stage_in(out))), weights_only=True)


def stage_in(out: Path) -> Stage:
    """Of these trainings."""
    return Stage("tune", "sft", "tune", {}, out)


def measure(given: Given) -> Iterator[Line | Tested]:
    """Kills while checkpoints are written, then damage."""
    count = given.count(200, 20)
    places = {"on its own disk": given.work / "saved"}
    if OTHER_DISK.is_dir() and OTHER_DISK.stat().st_dev != given.work.stat().st_dev:
        places["checkpoints/ a link to another filesystem"] = given.work / "linked"
    for where, out in places.items():
        torn, left, newest, hits = kills(out, count, given, where != "on its own disk")
        yield Line(
            f"kills while checkpoints are written, {where}",
            f"{len(torn)} of {hits} torn, at most {left} temporary files left, step {newest}"
            + (f"; {hits} of {count} kills hit" if hits < count else "")
            + "".join(torn[:1]),
            # Half a checkpoint, and a second name of the one before it; the next start removes them.
            not torn and left <= 2 and newest > 0 and hits == count,
            "tests/experiment/test_saving.py::test_a_checkpoint_is_staged_where_it_is_renamed",
        )
    named = damaged(places["on its own disk"], given)
    yield Line(
        "damaged checkpoints are named, with the one before", f"{named}/20", named == 20, "tests/experiment/test_saving.py"
    )
    yield tested(
        "the newest of all that were left; TERM saves the step; the interval in mid-run", "tests/experiment/test_saving.py"
    )
    yield tested(
        "a loss, gradient or weight that is not finite stops the run and keeps the last good checkpoint",
        "tests/tasks/test_finite.py",
    )


def kills(out: Path, count: int, given: Given, linked: bool) -> tuple[list[str], int, int, int]:
    """What was torn, the most temporary files that a kill left, the last step, and how many kills hit a training that had saved."""
    draw = random.Random(given.seed)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    other: Path | None = None
    if linked:
        other = Path(tempfile.mkdtemp(dir=OTHER_DISK, prefix="emo-runs-"))
        (out / "checkpoints").symlink_to(other)
    torn: list[str] = []
    left = step = hits = 0
    last = out / "checkpoints/last.ckpt"
    try:
        for _ in range(count):
            before = last.stat().st_mtime_ns if last.exists() else 0
            (process,) = start_each(partial(train, out), [{}], out / "output.txt")
            until = time.monotonic() + 60
            while (not last.exists() or last.stat().st_mtime_ns == before) and time.monotonic() < until:
                time.sleep(0.001)
            time.sleep(draw.uniform(0.0, 0.05))
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            hits += process.exitcode == -signal.SIGKILL and last.exists() and last.stat().st_mtime_ns != before
            places = [out / ".tmp", out / "checkpoints", *([other / ".tmp"] if other else [])]
            half = {path for place in places for path in place.glob("**/*") if place.name == ".tmp" or path.suffix == ".tmp"}
            left = max(left, sum(path.is_file() for path in half))
            try:
                found = newest_checkpoint(Checkpoints.of(stage_in(out)))
                step = max(step, int(torch.load(found, weights_only=True)["global_step"]) if found else 0)
            except CheckpointFileError as error:
                torn.append(str(error))
    finally:
        if other is not None:
            shutil.rmtree(other)
    return torn, left, step, hits


def damaged(out: Path, given: Given) -> int:
    """How many of 20 damages (flipped bits, cuts, nothing left) were named, with the checkpoint that is left."""
    draw = random.Random(given.seed)
    last = out / "checkpoints/last.ckpt"
    older = last.with_name(PREVIOUS_CHECKPOINT)
    whole = last.read_bytes()
    # A kill may have left both names to one file.
    older.unlink(missing_ok=True)
    shutil.copyfile(last, older)
    named = 0
    for number in range(20):
        at = draw.randrange(len(whole) // 20, len(whole))
        flipped = whole[:at] + bytes([whole[at] ^ (1 << number % 8)]) + whole[at + 1 :]
        last.write_bytes(flipped if number < 14 else whole[:at] if number < 18 else b"")
        try:
            newest_checkpoint(Checkpoints.of(stage_in(out)))
        except CheckpointFileError as error:
            named += str(error).startswith(f"{last}: ") and f"go on from {older} (step " in str(error)
    last.write_bytes(whole)
    return named
