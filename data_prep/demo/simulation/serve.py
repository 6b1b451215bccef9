"""The simulated annotators as an OpenAI-compatible HTTP server on loopback, with a bill of its own.

POST /v1/chat/completions answers, /v1/files and /v1/batches are a Batch API, GET /bill tells what was answered and charged.
It runs in a process of its own, so that the client side of a pass has its core for itself:
`python -m data_prep.demo.simulation.serve --truth T.jsonl --config world.yaml`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.images import drawn_truth
from data_prep.demo.simulation.replies import Simulation, SimulationError
from data_prep.demo.simulation.server import SimulationServer, read_request
from emo_lightning.core.options import Whole
from emo_lightning.core.records import Record, read_jsonl, write_jsonl
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from data_prep.demo.world import WorldSample

__all__ = [
    "KEY_VARIABLE",
    "Simulated",
    "SimulationServer",
    "main",
    "read_request",
    "run_server",
    "simulated_annotators",
    "store_truth",
]

KEY_VARIABLE = "EMO_SIMULATED_KEY"
"""Environment variable of the key: the simulated annotators accept any, but the client wants one."""


@dataclass(frozen=True)
class Simulated:
    """A running server."""

    base_url: str
    """For the openai client, ends in /v1."""

    def bill(self) -> dict[str, dict[str, int]]:
        """What the server says it answered and charged, by model."""
        bill: dict[str, dict[str, int]] = json.loads(self._get("/bill"))
        return bill

    def receipts(self) -> dict[str, int]:
        """What it charged for each answer (nano-dollars), by the answer's id."""
        receipts: dict[str, int] = json.loads(self._get("/receipts"))
        return receipts

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + path) as response:
            found: bytes = response.read()
            return found


@contextlib.contextmanager
def simulated_annotators(truth: Iterable[WorldSample | Record], config_path: str | Path) -> Iterator[Simulated]:
    """Run the simulated annotators in a child process while the context is open.

    Also sets the environment variable of the key (`KEY_VARIABLE`), which holds no secret.

    Args:
        truth: records with everything known, or samples of the world.
        config_path: YAML with a `simulation` key.

    Raises:
        SimulationError: the server did not start; with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.jsonl"
        write_jsonl(path, (_as_record(t) for t in truth))
        command = [
            sys.executable,
            "-m",
            "data_prep.demo.simulation.serve",
            "--truth",
            str(path),
            "--config",
            str(config_path),
            "--child",
        ]
        # The child ends when its standard input does, so it never outlives this process, however that ends. A session of its
        # own keeps Ctrl-C from it: the pass wants its last replies.
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            line = child.stdout.readline().strip()
            if not line.startswith("http://"):
                child.wait(10)
                msg = f"the simulated annotators did not start (exit {child.returncode}); their message is above"
                raise SimulationError(msg)
            os.environ.setdefault(KEY_VARIABLE, "simulated")
            yield Simulated(line)
        finally:
            child.stdin.close()
            child.wait(10)
            child.stdout.close()


def _as_record(truth: WorldSample | Record) -> Record:
    if isinstance(truth, Record):
        return truth
    from data_prep.demo.world_source import world_truth

    return world_truth(truth)


def store_truth(store_root: str | Path, config: DemoConfig) -> list[Record]:
    """Truth of the world images of a store, drawn again from their keys, and of images that a simulated model drew for it.

    Raises:
        SimulationError: the configuration has no world, or the drawn images are not those of the store (another seed).
    """
    from data_prep.demo.world import World
    from data_prep.demo.world_source import world_truth
    from data_prep.store.store import Store

    if config.world is None:
        msg = "the configuration has no key 'world': the truth of other images is not known"
        raise SimulationError(msg)
    world = World(seed=config.world.seed, label_noise=config.world.label_noise)
    records = []
    with Store(store_root, write=False) as store:
        for item in store.ledger.items():
            if item.source != "world":
                if config.simulation and (generated := drawn_truth(item.labels, config.simulation)):
                    records.append(generated)
                continue
            record = world_truth(world.sample(str(item.split), int(item.key.rsplit("-", 1)[1])))
            if record.sha256 != item.sha256:
                msg = f"{item.id}: drawn again it is another image; was the store made with another world.seed?"
                raise SimulationError(msg)
            records.append(record)
    return records


def run_server(truth: Iterable[Record], config: DemoConfig, *, port: int, child: bool) -> None:
    """Serve until interrupted (or, as a child, until standard input ends); prints the address first.

    Raises:
        SimulationError: no `simulation` in the configuration, or no truth.
    """
    if config.simulation is None:
        msg = "the configuration has no key 'simulation'"
        raise SimulationError(msg)
    server = SimulationServer(Simulation(truth, config.simulation), config)

    async def serve() -> None:
        try:
            listening = await server.serve(port)
        except (OSError, OverflowError) as error:
            msg = f"--port {port}: {error}; 0 takes a free one"
            raise SimulationError(msg) from None
        say(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)
        async with listening:
            await listening.serve_forever()

    if child:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


def main(argv: list[str] | None = None) -> int:
    """Entry of the child process."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.demo.simulation.serve", description=__doc__)
    parser.add_argument("--truth", required=True, help="JSON lines of records")
    parser.add_argument("--config", required=True, help="YAML with a simulation key")
    parser.add_argument("--port", type=Whole(0, 65535), default=0, help="0 takes a free one")
    parser.add_argument("--child", action="store_true", help="end when standard input does")
    args = parser.parse_args(argv)
    run_server(read_jsonl(args.truth, Record), DemoConfig.load(args.config), port=args.port, child=args.child)
    return 0


if __name__ == "__main__":
    sys.exit(main())
