"""What the launcher (torchrun, SLURM, or none) says about this process."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say


@dataclass(frozen=True)
class Ranks:
    """This process among those that a launcher has started (torchrun or SLURM); alone without one."""

    rank: int
    world_size: int

    @classmethod
    def from_environment(cls) -> Ranks:
        """Read torchrun's variables, then SLURM's.

        Raises:
            InputError: a variable that holds no number.
        """
        env = os.environ
        if "RANK" in env and "WORLD_SIZE" in env:
            return cls(_number(env, "RANK"), _number(env, "WORLD_SIZE"))
        if "SLURM_PROCID" in env and started_by_srun():
            return cls(_number(env, "SLURM_PROCID"), slurm_tasks())
        return cls(0, 1)


def started_by_srun() -> bool:
    """Whether `srun` started this process as one of several tasks.

    A batch script and an interactive shell have the job's variables (SLURM_NTASKS, SLURM_PROCID=0) too, and stand alone. Only srun
    names a step, with how many tasks it has.
    """
    return slurm_tasks() > 1


def slurm_tasks() -> int:
    """Tasks of the SLURM step that this process belongs to; 1 outside of one."""
    return _number(os.environ, "SLURM_STEP_NUM_TASKS") if "SLURM_STEP_NUM_TASKS" in os.environ else 1


def job_step() -> str:
    """Name of the SLURM step that this process belongs to, another one for each `srun`; empty without one."""
    parts = [os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    return ".".join(parts) if started_by_srun() and "RANK" not in os.environ and all(part.isdigit() for part in parts) else ""


def forget_job_variables() -> None:
    """Where SLURM's variables speak of tasks that srun did not start: remove them, and say so.

    Lightning would take this process for the first of that many, and wait for the others, or take its share of the work alone.
    """
    tasks = os.environ.get("SLURM_NTASKS", "1")
    if "RANK" in os.environ or tasks == "1" or started_by_srun():
        return
    say(
        f"warning: SLURM's job has {tasks} tasks, but srun did not start this process: it does all of the work alone "
        "(to share it, put srun before the command)",
        file=sys.stderr,
    )
    for name in ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID"):
        os.environ.pop(name, None)


def _number(env: Mapping[str, str], name: str) -> int:
    if not (env[name].isascii() and env[name].isdigit()):
        msg = f"environment variable {name}: found {env[name]!r}; expected a number, as torchrun and srun set it"
        raise InputError(msg)
    return int(env[name])
