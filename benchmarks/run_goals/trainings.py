"""Small trainings by the product's own command: made on the spot, started on any number of ranks, killed where asked, and read again."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.run_goals.lines import ROOT
from benchmarks.run_goals.observer import HIT, PLAN
from emo_lightning.core.fingerprints import content_sha256
from emo_lightning.experiment.kinds import TrainerKind, find_kind
from tests.made import make_qwen, write_world
from tests.patience import PATIENCE
from tests.ranks import start_each

ROW = 640
"""Tokens."""
Notes = dict[str, dict[str, Any]]
"""Rank and place -> what was noted there last."""


@dataclass(frozen=True)
class Setup:
    """A training."""

    name: str
    ranks: int = 1
    workers: int = 0
    strategy: str = "auto"
    kind: str = "packed"
    """`packed` (rows, two micro-batches a step), `padded`, or `at once` (as `packed`, one micro-batch a step)."""
    epochs: int = 2
    save_every: int = 2
    nodes: int = 1
    """Machines, each with so many ranks."""


@cache
def world(work: Path) -> tuple[Path, Path]:
    """Tars of 48 and 8 images, and a tiny backbone; torch and what stands on it is loaded, for the forks."""
    kind = find_kind("sft")
    assert isinstance(kind, TrainerKind)
    kind.preload()
    kind.task_class(), kind.data_class()
    tars = write_world(work / "tars", train=48, val=8)
    return tars, make_qwen(work / "qwen", tars)


class Training:
    """One run folder.

    Args:
        work: folder of all.
        setup: of the training.
        name: of the run.
    """

    def __init__(self, work: Path, setup: Setup, name: str) -> None:
        self.setup, self.folder = setup, work / setup.name / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.tars, self.model = world(work)
        self.starts = 0
        self.file = self.folder / "small.yaml"
        self.file.write_text(yaml.safe_dump(self.tree()), encoding="utf-8")

    @property
    def stage(self) -> Path:
        """Its folder."""
        return self.folder / "runs/small/tune"

    @property
    def words(self) -> list[str]:
        """Of its command."""
        return ["run", str(self.file), "--runs", str(self.folder / "runs"), "--allow-classes", "benchmarks"]

    def tree(self) -> dict[str, Any]:
        """The experiment, with dropout."""
        setup = self.setup
        accumulate = 2 if setup.kind == "packed" else 1
        size = {"batch_size": 4} if setup.kind == "padded" else {"max_tokens": ROW}
        observer = {"class_path": "benchmarks.run_goals.observer.Observer", "init_args": {"folder": str(self.folder)}}
        backbone = {
            "path": str(self.model),
            "tuning": "lora",
            "train_vision": True,
            "lora": {"rank": 3, "alpha": 8, "dropout": 0.1},
        }
        trainer = {
            "accelerator": "cpu",
            "devices": setup.ranks,
            "num_nodes": setup.nodes,
            "strategy": setup.strategy,
            "max_epochs": setup.epochs,
            "accumulate_grad_batches": accumulate,
            "check_val_every_n_epoch": None,
            "val_check_interval": 2 * accumulate,
            "num_sanity_val_steps": 0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [observer],
        }
        data = {
            "train": [f"{self.tars}/*-train-*.tar"],
            "val": [f"{self.tars}/*-val-*.tar"],
            "objectives": {"attributes": 0.6, "emotion": 0.4},
            "num_workers": setup.workers,
            **size,
        }
        tune = {
            "run": "sft",
            "model": {"backbone": backbone, "optim": {"lr": 1e-3}},
            "data": data,
            "trainer": trainer,
            "save_every": {"steps": setup.save_every},
        }
        return {"name": "small", "stages": {"tune": tune}}

    def start(self, kill: Mapping[str, object] | None = None, ranks: int | None = None) -> list[int]:
        """Run the command, as a launcher does it on every rank; exit codes.

        Args:
            kill: see `observer.PLAN`.
            ranks: other than the setup's.
        """
        number = ranks or self.setup.ranks
        self.starts += 1
        (self.folder / PLAN).write_text(json.dumps({"start": self.starts, **(kill or {})}), encoding="utf-8")
        words = [*self.words, "--trainer.devices", str(number)]
        if number == 1 and self.setup.strategy == "ddp":
            words += ["--trainer.strategy", "auto"]
        processes = start_each(partial(run_command, words), _job(number), self.folder / "output.txt")
        until = time.monotonic() + PATIENCE
        for process in processes:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()
        return [int(process.exitcode or 0) for process in processes]

    def kill(self, kill: Mapping[str, object], ranks: int | None = None) -> str:
        """Run the command until it is killed; what was otherwise than planned.

        Args:
            kill: see `observer.PLAN`.
            ranks: other than the setup's.
        """
        codes = self.start(kill, ranks)
        where = f"{kill['event']} from step {kill['step']} on of rank {kill['rank']} in start {self.starts}"
        if not (self.folder / HIT.format(start=self.starts)).exists():
            return f"the kill missed: {where}, exit codes {codes}" + (f": {self.said()}" if any(codes) else "")
        return "" if all(codes) else f"the kill ended not all: {where}, exit codes {codes}"

    def notes(self) -> Notes:
        """Of all ranks and starts."""
        found: Notes = {}
        for path in sorted(self.folder.glob("rank-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                note = json.loads(line)
                found[f"{path.stem} {note['at']}"] = note
        return found

    def steps(self) -> dict[int, tuple[list[str], float]]:
        """Samples of each optimiser step, sorted, and the sum of its losses; of one that was done by several starts that of the last."""
        lines = [
            json.loads(line)
            for path in sorted(self.folder.glob("rank-*.jsonl"))
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        notes = [note for note in lines if "step" in note]
        last: dict[int, int] = {}
        for note in notes:
            last[note["step"]] = max(note["start"], last.get(note["step"], 0))
        found: dict[int, tuple[list[str], float]] = {}
        for note in notes:
            if note["start"] == last[note["step"]]:
                keys, loss = found.get(note["step"], ([], 0.0))
                found[note["step"]] = sorted([*keys, *note["keys"]]), loss + float.fromhex(note["loss"])
        return found

    def weights(self) -> str:
        """What the written adapter holds."""
        return content_sha256(self.stage / "adapter/adapter_model.safetensors")

    def said(self) -> str:
        """The end of what its processes printed."""
        return (self.folder / "output.txt").read_text(encoding="utf-8")[-600:]


def run_command(words: list[str]) -> None:
    """`emo` with these words; ends with its exit code."""
    from emo_lightning.cli import main

    raise SystemExit(main(words))


def _job(ranks: int) -> list[dict[str, object]]:
    """The environment of each rank, as torchrun gives it."""
    root = {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[:1]]), "WANDB_MODE": "disabled"}
    if ranks == 1:
        return [dict(root)]
    job = {
        **root,
        "GROUP_RANK": 0,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": _free_port(),
        "TORCHELASTIC_RUN_ID": "measured",
    }
    return [{**job, "RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return min(int(probe.getsockname()[1]), 65_000)
