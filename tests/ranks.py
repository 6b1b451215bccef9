"""Two ranks of one job, without the eight seconds that each new interpreter takes to import torch, Lightning and transformers."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from tests.patience import PATIENCE


def run_ranks(work: Callable[[], object], ranks: int = 2) -> None:
    """Run the same function as each rank of a job, with the environment that torchrun gives its workers.

    The store through which they meet is kept by this process, as torchrun's agent keeps it: no port is chosen that another test
    might take first. A process that uses CUDA cannot be forked; its ranks are new interpreters.

    Raises:
        AssertionError: a rank failed; its traceback stands among what the test printed.
    """
    import torch
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context: Any = multiprocessing.get_context("spawn" if torch.cuda.is_initialized() else "fork")
    processes = [context.Process(target=_rank_main, args=(work, rank, ranks, store.port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    until = time.monotonic() + PATIENCE
    # One that fails leaves the others waiting for it.
    while any(p.is_alive() for p in processes) and not any(p.exitcode for p in processes) and time.monotonic() < until:
        time.sleep(0.05)
    for process in processes:
        process.join(5 if any(p.exitcode for p in processes) else 0)
        process.kill()
        process.join()
    codes = [process.exitcode for process in processes]
    assert codes == [0] * ranks, f"exit codes of the ranks: {codes}"


def _rank_main(work: Callable[[], object], rank: int, ranks: int, port: int) -> None:
    import torch

    torch.set_num_threads(1)
    launched = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "GROUP_RANK": 0,
        "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": ranks,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_USE_AGENT_STORE": True,
        "OMP_NUM_THREADS": 1,
    }
    os.environ |= {key: str(value) for key, value in launched.items()}
    code = 1
    try:
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        # Not `sys.exit`: what pytest has to do at the end is its own process's.
        os._exit(code)
