"""Runs the stages of an experiment, one process each, and keeps the books of a run directory.

Each stage has a process of its own because Lightning's `ddp` launcher starts the other ranks by running the same command again:
in one process they would repeat every earlier stage. Under torchrun or SLURM every rank walks the same list; rank 0 keeps the books.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from emo_lightning.core.errors import UserError, explain_error
from emo_lightning.core.ranks import Ranks
from emo_lightning.experiment.files import ROOT, ExperimentError
from emo_lightning.experiment.kinds import Call, check, execute, kind
from emo_lightning.experiment.resolve import Experiment
from emo_lightning.experiment.stage import Stage, first_difference, what_it_computes

console = Console(highlight=False)


_OWN_FILES = {"config.yaml", "stage.json", ".tmp", "logs", "wandb"}
"""What a stage's folder holds before the stage itself has made anything."""


_LAUNCHERS = {
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
}
"""By these Lightning sees that it is one of several processes."""


class StageFailed(UserError, RuntimeError):
    """A stage ended with an error, which has been printed by its process."""


def run_experiment(experiment: Experiment, *, only: str | None = None) -> None:
    """Run what is not complete, in order.

    Args:
        experiment: resolved.
        only: run just this stage.

    Raises:
        ExperimentError: a stage's arguments are wrong, or the folder holds another experiment; nothing has been run then.
        StageFailed: names the stage; running the same command again goes on from there.
    """
    ranks = Ranks.from_environment()
    chosen = [s for s in experiment.stages if only in (None, s.name)]
    if not chosen:
        msg = f"--only {only}: no such stage; allowed: {', '.join(s.name for s in experiment.stages)}"
        raise ExperimentError(msg)
    for stage in chosen:
        check(stage)
        if ranks.world_size == 1:
            _refuse_swarm(stage)
    with _locked(experiment.dir, ranks):
        done = {s.name for s in chosen if _complete(s)}
        _refuse_stale(chosen, done)
        if len(done) < len(chosen):
            # A page about a run that goes on is about an older run.
            done -= {s.name for s in chosen if s.kind == "report"}
        if ranks.rank == 0:
            _write(experiment.dir / "experiment.yaml", experiment.as_yaml())
        for number, stage in enumerate(chosen, 1):
            head = f"[bold]\\[{number}/{len(chosen)}] {stage.name}[/bold] — {stage.title}"
            if stage.name in done:
                if ranks.rank == 0:
                    console.print(f"{head} [dim](complete, skipped)[/dim]")
                continue
            if ranks.rank == 0:
                console.print(head)
            _run_in_process(stage, number, ranks)
        page = experiment.dir / "report.html"
        if ranks.rank == 0 and len(done) == len(chosen):
            console.print(f"nothing left to do: {page if page.exists() else experiment.dir}", soft_wrap=True, markup=False)


def _refuse_swarm(stage: Stage) -> None:
    """On a CPU Lightning starts as many processes as it is told: an experiment for 8 GPUs would fill a laptop with 8 copies of the model."""
    import torch

    trainer = stage.config.get("trainer", {})
    devices, accelerator = trainer.get("devices"), trainer.get("accelerator", "auto")
    if accelerator not in ("auto", "cpu") or (accelerator == "auto" and torch.accelerator.is_available()):
        return
    cores = os.cpu_count() or 1
    # A few processes on fewer cores are slow and harmless.
    most = max(cores, 4)
    if str(devices).isdigit() and int(devices) > most:
        msg = (
            f"stage {stage.name!r}: trainer.devices: found {devices}, but this machine has no GPU for it and {cores} CPU cores; "
            f"allowed: auto, or 1 to {most}"
        )
        raise ExperimentError(msg)


@contextmanager
def _locked(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    if ranks.rank != 0:
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"{run_dir}: another experiment is running here; choose another --name or wait"
            raise ExperimentError(msg) from None
        yield


def _complete(stage: Stage) -> bool:
    """Whether the stage is done; refuses a folder that another experiment has begun."""
    book, saved = _book(stage), stage.out / "config.yaml"
    if not book or not saved.exists():
        return False
    if book.get("config_sha256") != stage.digest:
        if book.get("status") != "complete" and {path.name for path in stage.out.iterdir()} <= _OWN_FILES:
            return False  # It failed before it made anything: the settings may be mended.
        old = yaml.safe_load(saved.read_text())
        difference = (
            first_difference(what_it_computes(old), what_it_computes({"run": stage.kind, **stage.config}))
            or "the kind of stage"
        )
        msg = f"{stage.out} was made with other settings ({difference}); choose another --name, or delete {stage.out} to make it anew"
        raise ExperimentError(msg)
    return book.get("status") == "complete"


def _refuse_stale(stages: list[Stage], done: set[str]) -> None:
    """A finished stage must not stand on one that is, or will be, made anew."""
    for n, later in enumerate(stages):
        named = json.dumps(later.config, default=str)
        for earlier in stages[:n]:
            if later.name not in done or not (f"{earlier.out}/" in named or f'{earlier.out}"' in named):
                continue
            if earlier.name not in done or str(_book(earlier).get("finished")) > str(_book(later).get("started")):
                msg = f"{later.out} was made from an older {earlier.out}; delete it too, so that it is made anew, or choose another --name"
                raise ExperimentError(msg)


def _book(stage: Stage) -> dict[str, Any]:
    path = stage.out / "stage.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _run_in_process(stage: Stage, number: int, ranks: Ranks) -> None:
    started = time.time()
    if ranks.rank == 0:
        _write(stage.out / "config.yaml", yaml.safe_dump({"run": stage.kind, **stage.config}, sort_keys=False))
        _keep_book(stage, "running", started)
    elif _on_one_rank(stage):
        _wait_for_rank_zero(stage, started)
        return
    code = _fork(stage, number, ranks)
    if ranks.rank == 0:
        _keep_book(stage, "complete" if code == 0 else "failed", started)
    if code in (-signal.SIGINT, 130):
        raise KeyboardInterrupt
    if code != 0:
        # A negative code is the signal that killed it.
        how = f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
        how += " (is there enough memory?)" if code == -signal.SIGKILL else ""
        msg = f"stage {stage.name!r} {how}; its files are in {stage.out}, the same command goes on there"
        raise StageFailed(msg)


def _keep_book(stage: Stage, status: str, started: float) -> None:
    entry = {
        "stage": stage.name,
        "kind": stage.kind,
        "title": stage.title,
        "status": status,
        "config_sha256": stage.digest,
        "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
        "finished": None if status == "running" else datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 1),
        "commit": _commit(),
        "command": shlex.join(["emo", *sys.argv[1:]]),
    }
    _write(stage.out / "stage.json", json.dumps(entry, indent=2) + "\n")


def _commit() -> str | None:
    """Of this checkout. An installed package has none; a repository around it is another program's."""
    if not (ROOT / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def _on_one_rank(stage: Stage) -> bool:
    """A stage that is one function, or a Trainer on one device: started on every rank, each would take itself for the first."""
    trainer = stage.config.get("trainer", {})
    return isinstance(kind(stage.kind), Call) or (trainer.get("devices") == 1 and trainer.get("num_nodes", 1) == 1)


def _wait_for_rank_zero(stage: Stage, since: float) -> None:
    """Ranks above zero have nothing to do in a stage that runs on one rank: wait until it is done."""
    while True:
        book = _book(stage)
        fresh = bool(book) and datetime.fromisoformat(book["started"]).timestamp() > since - 60
        if fresh and book["status"] == "complete":
            return
        if fresh and book["status"] == "failed":
            msg = f"stage {stage.name!r} failed on rank 0"
            raise StageFailed(msg)
        time.sleep(1)


def _fork(stage: Stage, number: int, ranks: Ranks) -> int:
    """Exit code of the stage in a forked process: heavy imports are paid once, state is shared with no other stage."""
    # A fork of a process that uses CUDA (a notebook, say) cannot use it.
    in_use = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
    context = multiprocessing.get_context("spawn") if in_use else multiprocessing.get_context("fork")
    process = context.Process(target=_child, args=(stage, number, ranks), name=stage.name)
    process.start()

    def terminated(*_: Any) -> None:
        # Unlike Ctrl-C of a terminal it comes to this process alone, and the stage would go on by itself.
        assert process.pid is not None
        os.kill(process.pid, signal.SIGINT)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        process.join()
    except KeyboardInterrupt:
        # The child has it as well, and saves its checkpoint first.
        process.join(60)
        process.kill()
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return int(process.exitcode or 0)


def _child(stage: Stage, number: int, ranks: Ranks) -> None:
    if "torch" in sys.modules:
        import torch

        # A fork leaves torch's thread pool without its threads, and the first use makes a new one, which is not safe from several
        # threads at once ("Invalid thread pool!"): transformers loads weights in threads. So make it here.
        torch.set_num_threads(torch.get_num_threads())
    if ranks.world_size > 1 and _on_one_rank(stage):
        for name in [n for n in os.environ if n in _LAUNCHERS or n.startswith("TORCHELASTIC_")]:
            del os.environ[name]
    elif ranks.world_size > 1:
        # torchrun's store still holds the addresses of the stage before: each stage meets at a port of its own.
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        # As Lightning chooses it under SLURM.
        port = os.environ.get("MASTER_PORT") or int(os.environ.get("SLURM_JOB_ID", "0")[-4:]) + 15_000
        os.environ["MASTER_PORT"] = str(int(port) + number)
    sys.exit(stage_main(stage))


def stage_main(stage: Stage) -> int:
    """Run one stage in this process; returns its exit code and prints an error as one line."""
    # Lightning's launcher starts further ranks as `python -m emo_lightning _stage FOLDER`.
    import importlib.util

    command = ["emo", *sys.argv[1:]]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("emo_lightning.__main__")
    sys.argv = [sys.argv[0], "_stage", str(stage.out)]
    os.environ.setdefault("WANDB_MODE", "offline")
    os.environ.setdefault("WANDB_SILENT", "true")
    # Seconds; its own 90 are long to wait for "no network".
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "20")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # A checkpoint is staged in the temporary folder and renamed: on another filesystem a kill would tear it.
    temporary = stage.out / ".tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(temporary)
    try:
        execute(stage)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return explain_error(error, command, f"stage {stage.name!r}: ")
    return 0


def stage_from_folder(folder: str | Path) -> Stage:
    """The stage whose resolved config was saved there."""
    folder = Path(folder)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    return Stage(folder.name, config.pop("run"), folder.name, config, folder)
