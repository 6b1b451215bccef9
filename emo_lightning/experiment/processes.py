"""The process of a stage: how it is started, what it is given, and how it ends.

Each stage has a process of its own because Lightning's `ddp` launcher starts the other ranks by running the same command again:
in one process they would repeat every earlier stage.
"""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

from emo_lightning.core.endings import ENDING, StoppedError, exit_code
from emo_lightning.core.errors import UserError, debugging, print_error, user_message
from emo_lightning.core.fingerprints import HASHES
from emo_lightning.core.ranks import Ranks
from emo_lightning.core.terminal import say, speak_to_any_terminal
from emo_lightning.core.wandb_defaults import wandb_mode
from emo_lightning.experiment.execution import execute
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import CONTENT_SUFFIX, InputHashes, first_changed, inputs_of
from emo_lightning.experiment.kinds import FunctionKind, TrainerKind, find_kind
from emo_lightning.experiment.peers import Peers
from emo_lightning.experiment.rendezvous import port_through_folder, set_rendezvous
from emo_lightning.experiment.results import check_results
from emo_lightning.experiment.stage import Stage, StageCutShortError
from emo_lightning.experiment.supervision import NO_STATUS_EXIT, Ended, Supervisor, lead_group
from emo_lightning.experiment.tracking import tracking_of

_LAUNCHER_VARIABLES = {
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
_RANK_VARIABLES = ("NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "LOCAL_RANK")
_SHORT_FOLDERS = ("/tmp", "/var/tmp")
_SOCKET_FOLDER = 107 - len("/pymp-12345678/listener-12345678")
"""Bytes of a folder's path that leave room for a socket's: its address is that of C, of 108 bytes."""


CUT_SHORT_EXIT = 75
"""Exit code of a stage that ended in good order, but before its end (BSD's EX_TEMPFAIL)."""
INPUTS_CHANGED_EXIT = 65
"""Exit code of a stage whose inputs were changed while it ran (BSD's EX_DATAERR); the command says which."""


class _InputsChangedError(Exception):
    """An input of a stage holds something else than when it began."""


class StageFailedError(UserError, RuntimeError):
    """A stage ended with an error, which its process has printed."""

    @classmethod
    def from_exit_code(cls, stage: Stage, code: int) -> StageFailedError:
        """The error for a stage whose process has ended so; a negative code is the signal that killed it."""
        if code == CUT_SHORT_EXIT:
            return cls(f"stage {stage.name!r} was cut short and is not complete; the same command goes on there")
        if code == NO_STATUS_EXIT:
            return cls(f"stage {stage.name!r} ended without a word, and is not complete; the same command goes on there")
        how = f"ended with exit code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
        how += " (is there enough memory?)" if code == -signal.SIGKILL else ""
        error = cls(f"stage {stage.name!r} {how}; its files are in {stage.out}, the same command goes on there")
        # What was a bug there is a bug here.
        error.exit_code = 1 if code == 1 else 2
        return error


def check_process_count(stage: Stage) -> None:
    """Refuse more processes than a CPU can bear.

    On a CPU Lightning starts as many as it is told: an experiment for 8 GPUs would fill a laptop with 8 copies of the model.

    Raises:
        ExperimentError: says how many are allowed.
    """
    trainer = stage.config.get("trainer", {})
    where = f"stage {stage.name!r}: trainer.devices"
    check_cpu_processes(trainer.get("devices"), trainer.get("accelerator", "auto"), where)


def check_cpu_processes(devices: object, accelerator: object, where: str) -> None:
    """As `check_process_count`.

    Args:
        devices: how many, as the Trainer takes it.
        accelerator: as the Trainer takes it.
        where: stage and key, or option, for the message.

    Raises:
        ExperimentError: says how many are allowed.
    """
    import torch

    if accelerator not in ("auto", "cpu") or (accelerator == "auto" and torch.accelerator.is_available()):
        return
    cores = os.cpu_count() or 1
    # A few processes on fewer cores are slow and harmless.
    most = max(cores, 4)
    if str(devices).isdigit() and int(str(devices)) > most:
        msg = (
            f"{where}: found {devices}, but this machine has no GPU for it and {cores} CPU cores; allowed: auto, or 1 to {most}"
        )
        raise ExperimentError(msg)


def runs_on_one_rank(stage: Stage) -> bool:
    """A stage that is one function, or a Trainer on one device: started on every rank, each would take itself for the first."""
    trainer = stage.config.get("trainer", {})
    one_device = trainer.get("devices") == 1 and trainer.get("num_nodes", 1) == 1
    return isinstance(find_kind(stage.kind), FunctionKind) or one_device


def run_in_process(stage: Stage, number: int, ranks: Ranks, peers: Peers, inputs: InputHashes | None = None) -> Ended:
    """Run a stage in a forked process: heavy imports are paid once, state is shared with no other stage.

    Args:
        stage: to run.
        number: of it in its experiment.
        ranks: what the launcher says about this process.
        peers: the other ranks' commands.
        inputs: what the stage begins with, which it has to end with as well; None leaves that to another rank.

    Returns:
        How it ended, with all that it had started.

    Raises:
        PeerLostError: another rank has ended; so has this stage then.
    """
    kind = find_kind(stage.kind)
    if isinstance(kind, TrainerKind):
        kind.preload()
    # A fork of a process that uses CUDA (a notebook, say) cannot use it.
    in_use = "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
    context = multiprocessing.get_context("spawn") if in_use else multiprocessing.get_context("fork")
    word, said = context.Pipe(duplex=False)
    meet = ranks.world_size > 1 and not runs_on_one_rank(stage)
    port = port_through_folder(number, peers) if meet else None
    arguments = (stage, number, ranks, port, said, os.getpid(), inputs)
    process = context.Process(target=_stage_process, args=arguments, name=stage.name)
    process.start()
    with word:
        said.close()
        return Supervisor(process, word, peers.check).wait()


def _stage_process(
    stage: Stage, number: int, ranks: Ranks, port: str | None, word: Connection, parent: int, inputs: InputHashes | None
) -> None:
    lead_group(parent)
    # What was there before the fork is shared with the parent. A full collection would write into each of its objects, and so copy
    # the memory that torch, Lightning and transformers take: half a second or more, for nothing that could be freed.
    gc.freeze()
    if "torch" in sys.modules:
        import torch

        # A fork leaves torch's thread pool without its threads, and the first use makes a new one, which is not safe from several
        # threads at once ("Invalid thread pool!"): transformers loads weights in threads. So make it here.
        torch.set_num_threads(torch.get_num_threads())
    if ranks.world_size > 1 and runs_on_one_rank(stage):
        for name in [n for n in os.environ if n in _LAUNCHER_VARIABLES or n.startswith("TORCHELASTIC_")]:
            del os.environ[name]
    elif ranks.world_size > 1:
        set_rendezvous(number, port)
    sys.exit(run_stage(stage, word, inputs))


def make_socket_folder() -> str:
    """Make the folder for the sockets of this process and its workers, before the temporary folder is another.

    A path of more than 107 bytes is none for a socket, and a batch whose socket cannot be made is lost without an error: its loader
    waits for it for ever. So the folder is in the user's own temporary one if that is short enough, else in the system's.

    Returns:
        Its path.

    Raises:
        ExperimentError: no temporary folder is short enough.
    """
    before = tempfile.tempdir
    asked = tempfile.gettempdir()
    try:
        for folder in (asked, *_SHORT_FOLDERS):
            if len(os.fsencode(folder)) <= _SOCKET_FOLDER and os.access(folder, os.W_OK):
                tempfile.tempdir = folder
                return str(multiprocessing.util.get_temp_dir())
    finally:
        tempfile.tempdir = before
    msg = f"TMPDIR: {asked} is too long for the sockets of workers; allowed: a folder of at most {_SOCKET_FOLDER} bytes"
    raise ExperimentError(msg)


def make_temporary_folder(out: Path) -> Path:
    """The folder in which this rank stages its checkpoints, on the filesystem where they end, without what was left there.

    Args:
        out: the stage's folder.
    """
    base = _temporary_base(out)
    folder = base / _temporary_name()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def remove_temporary_folders(out: Path, *, alone: bool) -> None:
    """While no process of a stage works: remove what they, and killed ones before them, on whichever machine, have left.

    Args:
        out: the stage's folder.
        alone: this command has started all ranks, or none has begun; else others may still work, and this rank removes its own folder.
    """
    base = _temporary_base(out)
    shutil.rmtree(base if alone else base / _temporary_name(), ignore_errors=True)


def _temporary_base(out: Path) -> Path:
    checkpoints = out / "checkpoints"
    return (checkpoints.resolve() if checkpoints.is_symlink() else out) / ".tmp"


def _temporary_name() -> str:
    # One rank on each node may have the same local number.
    return "-".join(["rank", *(os.environ.get(name, "0") for name in _RANK_VARIABLES)])


def run_stage(stage: Stage, word: Connection | None = None, inputs: InputHashes | None = None) -> int:
    """Run one stage in this process, and explain what it raises.

    Args:
        stage: to run.
        word: where to say that it is complete, once its results are written and looked at.
        inputs: what it begins with, held against what is there at its end; None: nothing is.

    Returns:
        The exit code.
    """
    speak_to_any_terminal()
    command = ["emo", *sys.argv[1:]]
    # Lightning's launcher starts further ranks as `python -m emo_lightning _stage FOLDER`.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("emo_lightning.__main__")
    sys.argv = [sys.argv[0], "_stage", str(stage.out)]
    os.environ["WANDB_MODE"] = wandb_mode()
    os.environ.setdefault("WANDB_SILENT", "true")
    # Seconds; its own 90 are long to wait for "no network".
    os.environ.setdefault("WANDB_INIT_TIMEOUT", "20")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    HASHES.keep_in(stage.out.parent / CONTENT_SUFFIX)
    make_socket_folder()
    # A checkpoint is staged in the temporary folder and renamed: on another filesystem a kill would tear it.
    tempfile.tempdir = str(make_temporary_folder(stage.out))

    def tell(kind: str, value: float) -> None:
        if word is not None:
            word.send((kind, value))

    with ENDING.watched(tell):
        code = _run_stage(stage, command, inputs)
    if code == 0:
        tell("complete", 0)
    return code


def _run_stage(stage: Stage, command: list[str], inputs: InputHashes | None) -> int:
    prefix = f"stage {stage.name!r}: "
    try:
        # Its run in W&B is a success only if all of this is.
        with tracking_of(stage):
            execute(stage)
            check_results(stage)
            if inputs is not None and first_changed(inputs, inputs_of(stage)) is not None:
                raise _InputsChangedError
    except (KeyboardInterrupt, SystemExit) as end:
        if isinstance(end, StoppedError):
            say(f"{prefix}{end}", file=sys.stderr)
        asked = ENDING.asked or ENDING.agreed
        if asked is None:
            # Nothing of it says that the stage was done.
            return end.code if isinstance(end, SystemExit) and isinstance(end.code, int) and end.code else 130
        return exit_code(asked)
    except StageCutShortError as cut:
        say(f"{prefix}{cut}", file=sys.stderr)
        return CUT_SHORT_EXIT
    except _InputsChangedError:
        return INPUTS_CHANGED_EXIT
    except Exception as error:
        asked = ENDING.asked or ENDING.agreed
        if asked is None or debugging() or user_message(error) is not None:
            return print_error(error, command, prefix)
        # Another rank or a worker has ended first.
        say(f"{prefix}ended by {asked.name} before it could save: {' '.join(str(error).split())[:200]}", file=sys.stderr)
        return exit_code(asked)
    return 0
