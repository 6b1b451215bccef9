"""Several processes of one job, without the eight seconds that each new interpreter takes to import torch, Lightning and transformers."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import random
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tests.patience import PATIENCE


def free_port() -> int:
    """A port that nobody listens on, nor on the nineteen after it, of which each stage of `emo run` takes one.

    It is below those that the system gives to connections (from 32,768), which come and go.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000, 20)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for each in range(port, port + 20):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", each))
            return port


def slurm_tasks(ranks: int, port: int, nodes: int = 1) -> list[dict[str, object]]:
    """The environment that srun gives each task of a step of this machine, by any number of names.

    Args:
        ranks: tasks.
        port: that Lightning would derive from the job's number, from 15,000 to 24,999.
        nodes: that the tasks are evenly on.
    """
    each = ranks // nodes
    job = {
        # Lightning adds the last four digits to 15,000.
        "SLURM_JOB_ID": 70_000 + port - 15_000,
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": ranks,
        "SLURM_NTASKS_PER_NODE": each,
        "SLURM_STEP_ID": 0,
        "SLURM_STEP_NUM_TASKS": ranks,
        "SLURM_NNODES": nodes,
        "SLURM_NODELIST": "127.0.0.1",
    }
    return [{**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank % each, "SLURM_NODEID": rank // each} for rank in range(ranks)]


def slurm_port() -> int:
    """A free port that `slurm_tasks` can have."""
    return next(port for port in iter(free_port, None) if 15_000 <= port < 25_000)


def run_ranks(work: Callable[[], object], ranks: int = 2) -> None:
    """Run the same function as each rank of a job, with the environment that torchrun gives its workers.

    The store through which they meet is kept by this process, as torchrun's agent keeps it: no port is chosen that another test
    might take first.

    Raises:
        AssertionError: a rank failed; its traceback stands among what the test printed.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, though not in their __all__

    store = TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False)
    job = {
        "GROUP_RANK": 0,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": True,
    }
    run_each(work, [{**job, "RANK": rank, "LOCAL_RANK": rank} for rank in range(ranks)])


def run_each(work: Callable[[], object], environments: Sequence[Mapping[str, object]], output: Path | None = None) -> None:
    """Run a function at the same time in one process for each of these additions to the environment.

    They are forked, so that what this process has imported need not be imported again. A process that uses CUDA cannot be forked;
    there they are new interpreters. What they print goes to the file `output`, if there is one.

    Raises:
        AssertionError: one failed; its traceback stands among what the test printed.
    """
    processes = start_each(work, environments, output)
    until = time.monotonic() + PATIENCE
    # One that fails leaves the others waiting for it.
    while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes) and time.monotonic() < until:
        time.sleep(0.05)
    for process in processes:
        process.join(5 if any(p.exitcode for p in processes) else 0)
        process.kill()
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * len(processes), f"exit codes: {codes}"


def start_each(
    work: Callable[[], object], environments: Sequence[Mapping[str, object]], output: Path | None = None
) -> list[multiprocessing.Process]:
    """As `run_each`, without waiting for their end."""
    import torch

    context: Any = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    processes = [context.Process(target=_main, args=(work, environment, output)) for environment in environments]
    for process in processes:
        process.start()
    return processes


def _main(work: Callable[[], object], environment: Mapping[str, object], output: Path | None) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"OMP_NUM_THREADS": "1"} | {key: str(value) for key, value in environment.items()}
    if output is not None:
        print_to(output)
    end_with(work)


def end_with(work: Callable[[], object]) -> NoReturn:
    """Do the work and end this process with what it raises or exits with; nothing of what the process was forked from is done at its end."""
    code = 1
    # As in `emo_lightning.experiment.processes`: a collection would copy all that was imported before the fork.
    gc.freeze()
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def print_to(output: Path) -> None:
    """Standard output and error of this process and of those that it starts; handlers of logs hold the stream that they began with."""
    file = open(output, "a", encoding="utf-8", buffering=1)  # until the process ends  # noqa: SIM115 - until the process ends
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(file)
