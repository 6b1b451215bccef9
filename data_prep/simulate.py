"""The simulated annotators as an OpenAI-compatible HTTP server on loopback, with a bill of its own.

POST /v1/chat/completions answers, /v1/files and /v1/batches are a Batch API, GET /bill tells what was answered and charged.
It runs in a process of its own, so that the client side of a pass has its core for itself:
`python -m data_prep.simulate --truth T.jsonl --config world.yaml`.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_prep.config import PrepConfig, load_prices
from data_prep.simulated_batches import SimulatedBatchApi
from data_prep.simulated_images import ImageSimulation, drawn_truth
from data_prep.simulated_limits import TokenBucket
from data_prep.simulated_replies import Simulation, SimulationError
from emo_lightning.schema import Record, read_jsonl, write_jsonl

if TYPE_CHECKING:
    from data_prep.sources.world import WorldSample

KEY_VARIABLE = "EMO_SIMULATED_KEY"
"""Environment variable of the key: the simulated annotators accept any, but the client wants one."""
_RETRY_AFTER = "0.05"
_MAX_BODY = 64 * 2**20


class SimulationServer:
    """Answers requests of one simulation.

    Args:
        simulation: what the models say.
        config: for the price table.
    """

    def __init__(self, simulation: Simulation, config: PrepConfig) -> None:
        self.simulation = simulation
        self.prices = load_prices(config.prices)
        self.bill: dict[str, dict[str, int]] = {}
        self._refused: set[str] = set()
        self.receipts: dict[str, int] = {}
        """Nano-dollars of each answer, by its id (the same request is answered with the same id)."""
        self._buckets = {name: TokenBucket(model) for name, model in simulation.config.models.items()}
        batched = partial(self._complete, batch=True)
        self._batches = SimulatedBatchApi(
            simulation.config.batches, batched, lambda *parts: simulation.generator(*parts).random()
        )

        learn = simulation.truth.__setitem__
        self._images = ImageSimulation(
            simulation.config, config.prices, self.prices, self._row, lambda truth: learn(truth.sha256, truth)
        )

    async def serve(self, port: int) -> asyncio.Server:
        """Listen on 127.0.0.1; port 0 takes a free one."""
        return await asyncio.start_server(self._connection, "127.0.0.1", port, limit=_MAX_BODY)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode("latin-1").split("\r\n")
                headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ", 2)
                status, extra, answer, delay = self._route(method, path, headers, body)
                payload = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                if delay:
                    await asyncio.sleep(delay)
                reply = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{extra}Content-Length: {len(payload)}\r\n\r\n"
                writer.write(reply.encode() + payload)
                await writer.drain()
        writer.close()

    def _route(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[str, str, dict[str, Any] | bytes, float]:
        """Status line, more header lines, answer, and seconds before it is sent."""
        if (method, path) == ("GET", "/bill"):
            self._batches.advance()
            return "200 OK", "", self.bill, 0.0
        if (method, path) == ("GET", "/receipts"):
            return "200 OK", "", self.receipts, 0.0
        if (drawn := self._images.answer(method, path, body)) is not None:
            return *drawn, 0.0
        if path.startswith(("/v1/files", "/v1/batches")):
            status, answer = self._batches.route(method, path, headers, body)
            return status, "", answer, 0.0
        if (method, path) != ("POST", "/v1/chat/completions"):
            known = "POST /v1/chat/completions, /v1/files, /v1/batches and GET /bill are served"
            return "404 Not Found", "", _error(f"{method} {path}: only {known}"), 0.0
        try:
            model = read_request(body)[0]
            if (refusal := self._too_many(model, body)) is not None:
                return "429 Too Many Requests", refusal, _error("simulated rate limit"), 0.0
        except SimulationError as error:
            return "400 Bad Request", "", _error(str(error)), 0.0
        code, said = self._complete(body)
        if code != 200:
            return "400 Bad Request", "", said, 0.0
        return "200 OK", "", said, self.simulation.model(model).latency

    def _complete(self, body: bytes, *, batch: bool = False) -> tuple[int, dict[str, Any]]:
        """Answer a chat request and charge for it."""
        try:
            model, sha256, prompt = read_request(body)
            reply = self.simulation.answer(model, sha256, prompt)
        except SimulationError as error:
            return 400, _error(str(error))
        name = hashlib.sha256("\0".join([model, sha256, prompt]).encode()).hexdigest()
        said_before = f"chatcmpl-{name[:24]}" in self.receipts
        cost = self._charge(model, reply.prompt_tokens, reply.output_tokens, batch=batch, again=said_before)
        self.receipts[f"chatcmpl-{name[:24]}"] = cost
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        return 200, {
            "id": f"chatcmpl-{name[:24]}",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.output_tokens,
                "total_tokens": reply.prompt_tokens + reply.output_tokens,
            },
        }

    def _too_many(self, model: str, body: bytes) -> str | None:
        """Header lines of a refusal, None where the request passes; a refusal by chance comes at most once for a request."""
        rate = self.simulation.model(model).too_many_requests
        row = self._row(model)
        headers = self._buckets[model].take()
        row["early"] = self._buckets[model].early
        if headers is not None:
            row["refused"] += 1
            return headers
        request = hashlib.sha256(body).hexdigest()
        if rate == 0 or request in self._refused or self.simulation.generator("429", request).random() >= rate:
            return None
        self._refused.add(request)
        row["refused"] += 1
        return f"Retry-After: {_RETRY_AFTER}\r\n"

    def _charge(self, model: str, prompt: int, output: int, *, batch: bool, again: bool) -> int:
        row, price = self._row(model), self.prices[model]
        row["replies"] += 1
        row["repeated"] += again
        row["prompt_tokens"] += prompt
        row["output_tokens"] += output
        cost = (price.batch if batch and price.batch else price).cost(prompt, 0, output)
        row["nano_dollars"] += cost
        return cost

    def _row(self, model: str) -> dict[str, int]:
        names = ("replies", "repeated", "refused", "early", "prompt_tokens", "output_tokens", "nano_dollars")
        return self.bill.setdefault(model, dict.fromkeys(names, 0))


def read_request(body: bytes) -> tuple[str, str, str]:
    """(model, sha256 of the image's bytes, all text) of a chat request.

    Raises:
        SimulationError: not a chat request with exactly one image as a data URI and a `json_schema` response format.
    """
    try:
        request = json.loads(body)
        model, messages = request["model"], request["messages"]
        if request["response_format"]["type"] != "json_schema":
            raise SimulationError("response_format.type must be json_schema")
        images: list[str] = []
        texts: list[str] = []
        for message in messages:
            content: Any = message["content"]
            parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    images.append(part["image_url"]["url"])
        if len(images) != 1 or not images[0].startswith("data:image/"):
            raise SimulationError(f"expected one image as a data URI, found {len(images)} images")
        data = base64.b64decode(images[0].partition(",")[2], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        if isinstance(error, SimulationError):
            raise
        raise SimulationError(f"not a chat request: {type(error).__name__}: {error}") from None
    return model, hashlib.sha256(data).hexdigest(), "\n".join(texts)


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "simulation"}}


@dataclass(frozen=True)
class Simulated:
    """A running server."""

    base_url: str
    """For the openai client, ends in /v1."""

    def bill(self) -> dict[str, dict[str, int]]:
        """What the server says it answered and charged, by model."""
        return self._get("/bill")

    def receipts(self) -> dict[str, int]:
        """What it charged for each answer (nano-dollars), by the answer's id."""
        return self._get("/receipts")

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self.base_url.removesuffix("/v1") + path) as response:
            return json.load(response)


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
        command = [sys.executable, "-m", "data_prep.simulate", "--truth", str(path), "--config", str(config_path), "--child"]
        # The child ends when its standard input does, so it never outlives this process, however that ends. A session of its
        # own keeps Ctrl-C from it: the pass wants its last replies.
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            line = child.stdout.readline().strip()
            if not line.startswith("http://"):
                child.wait(10)
                raise SimulationError(
                    f"the simulated annotators did not start (exit {child.returncode}); their message is above"
                )
            os.environ.setdefault(KEY_VARIABLE, "simulated")
            yield Simulated(line)
        finally:
            child.stdin.close()
            child.wait(10)
            child.stdout.close()


def _as_record(truth: WorldSample | Record) -> Record:
    if isinstance(truth, Record):
        return truth
    from data_prep.sources.world_source import world_truth

    return world_truth(truth)


def store_truth(store_root: str | Path, config: PrepConfig) -> list[Record]:
    """Truth of the world images of a store, drawn again from their keys, and of images that a simulated model drew for it.

    Raises:
        SimulationError: the configuration has no world, or the drawn images are not those of the store (another seed).
    """
    from data_prep.sources.world import World
    from data_prep.sources.world_source import world_truth
    from data_prep.store import Store

    if config.world is None:
        raise SimulationError("the configuration has no key 'world': the truth of other images is not known")
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
                raise SimulationError(
                    f"{item.id}: drawn again it is another image; was the store made with another world.seed?"
                )
            records.append(record)
    return records


def run_server(truth: Iterable[Record], config: PrepConfig, *, port: int, child: bool) -> None:
    """Serve until interrupted (or, as a child, until standard input ends); prints the address first.

    Raises:
        SimulationError: no `simulation` in the configuration, or no truth.
    """
    if config.simulation is None:
        raise SimulationError("the configuration has no key 'simulation'")
    server = SimulationServer(Simulation(truth, config.simulation), config)

    async def serve() -> None:
        listening = await server.serve(port)
        print(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1", flush=True)
        async with listening:
            await listening.serve_forever()

    if child:
        threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


def main(argv: list[str] | None = None) -> int:
    """Entry of the child process."""
    parser = argparse.ArgumentParser(prog="python -m data_prep.simulate", description=__doc__)
    parser.add_argument("--truth", required=True, help="JSON lines of records")
    parser.add_argument("--config", required=True, help="YAML with a simulation key")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--child", action="store_true", help="end when standard input does")
    args = parser.parse_args(argv)
    run_server(read_jsonl(args.truth, Record), PrepConfig.load(args.config), port=args.port, child=args.child)
    return 0


if __name__ == "__main__":
    sys.exit(main())
