"""Who a process takes itself for: one of several only where a launcher has started it."""

from __future__ import annotations

import os

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.ranks import Ranks, forget_job_variables

JOB = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("SLURM") or n in ("RANK", "WORLD_SIZE")]:
        monkeypatch.delenv(name)
    # So that what a test removes is put back.
    for name in ("SLURM_NTASKS", "SLURM_NPROCS", "SLURM_NTASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID"):
        monkeypatch.setenv(name, "0")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, (0, 1)),
        (JOB, (0, 1)),
        ({**JOB, "SLURM_JOB_NAME": "train.sbatch"}, (0, 1)),
        # An interactive shell is a step of one task.
        ({**JOB, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
        ({**JOB, "SLURM_PROCID": "3", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "4"}, (3, 4)),
        # A step of its own within a step's shell: what srun says of the inner one counts.
        ({**JOB, "SLURM_PROCID": "1", "SLURM_STEP_ID": "7", "SLURM_STEP_NUM_TASKS": "2"}, (1, 2)),
        # One of an array of jobs, and a job that names its tasks for each node alone.
        ({**JOB, "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (0, 1)),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS_PER_NODE": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "0"}, (0, 1)),
        # torchrun in a batch script.
        ({**JOB, "RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_ranks(variables: dict[str, str], expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Ranks.from_environment() == Ranks(*expected)


@pytest.mark.parametrize("step", [None, "4"])
def test_a_batch_script_works_alone_and_says_so(
    step: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning reads the same variables, and would wait for the other three."""
    for name, value in {**JOB, **({"SLURM_STEP_NUM_TASKS": step} if step else {})}.items():
        monkeypatch.setenv(name, value)
    forget_job_variables()
    assert ("SLURM_NTASKS" in os.environ) == (step is not None)
    assert ("SLURM's job has 4 tasks, but srun did not start this process" in capsys.readouterr().err) == (step is None)


def test_a_rank_that_is_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(InputError, match="WORLD_SIZE: found 'two'"):
        Ranks.from_environment()
