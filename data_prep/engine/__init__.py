"""Where the work of a command is done: `local` (this machine: asyncio and threads, the default) or `ray` (a Ray cluster).

Both engines do the same two things, and a command does not know which one it has:

- `map`: pure functions of images (hashes, embeddings, grounding, votes). The caller makes the batches and writes the results,
  in order, so that what goes through a network together, and what comes into the ledger, is the same on one machine and on many.
- `paid`: who sends paid requests, and through whom the ledger is written meanwhile.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator

from data_prep.engine.base import Engine, EngineError, EngineResult, ItemRow, Prepared, Step, in_batches, portable
from data_prep.engine.local import LOCAL_ENGINE, LocalEngine

__all__ = [
    "LOCAL_ENGINE",
    "Engine",
    "EngineError",
    "EngineResult",
    "ItemRow",
    "LocalEngine",
    "Prepared",
    "Step",
    "chosen_engine",
    "in_batches",
    "portable",
]


@contextlib.contextmanager
def chosen_engine(args: argparse.Namespace) -> Iterator[Engine]:
    """The engine that the arguments of `console.add_engine_arguments` ask for, until the context ends.

    Raises:
        EngineError: Ray is not installed or its cluster cannot be reached; or an address is given without `--engine ray`.
    """
    if args.engine == "local":
        for option, value in (("--ray-address", args.ray_address), ("--ray-without-token", args.ray_without_token)):
            if value:
                msg = f"{option}{'' if value is True else f' {value}'}: only --engine ray uses a cluster"
                raise EngineError(msg)
        yield LOCAL_ENGINE
        return
    from data_prep.engine.cluster import RayEngine, connected

    with connected(args.ray_address, without_token=args.ray_without_token):
        yield RayEngine()
