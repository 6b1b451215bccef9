"""The HTTP server of the simulated annotators: answers, refuses, and keeps a bill of its own."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.batches import SimulatedBatchApi
from data_prep.demo.simulation.images import ImageSimulation
from data_prep.demo.simulation.limits import TokenBucket
from data_prep.demo.simulation.replies import Simulation, SimulationError
from data_prep.provider.prices import load_prices

_RETRY_AFTER = "0.05"
_CHARACTERS = 4
"""Of a prompt, for each token of a bucket of tokens."""
_MAX_BODY = 64 * 2**20
# Connections that have not been taken up yet; one that finds no place waits for seconds.
_MAX_WAITING = 1024


class SimulationServer:
    """Answers requests of one simulation.

    Args:
        simulation: what the models say.
        config: for the price table.
    """

    def __init__(self, simulation: Simulation, config: DemoConfig) -> None:
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
        return await asyncio.start_server(self._connection, "127.0.0.1", port, limit=_MAX_BODY, backlog=_MAX_WAITING)

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
    ) -> tuple[str, str, Mapping[str, object] | bytes, float]:
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
            model, _, prompt = read_request(body)
            if (refusal := self._too_many(model, prompt, body)) is not None:
                return "429 Too Many Requests", refusal, _error("simulated rate limit"), 0.0
        except SimulationError as error:
            return "400 Bad Request", "", _error(str(error)), 0.0
        code, said = self._complete(body)
        if code != 200:
            return "400 Bad Request", "", said, 0.0
        return "200 OK", self._buckets[model].state(), said, self.simulation.model(model).latency

    def _complete(self, body: bytes, *, batch: bool = False) -> tuple[int, Mapping[str, object]]:
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

    def _too_many(self, model: str, prompt: str, body: bytes) -> str | None:
        """Header lines of a refusal, None where the request passes; a refusal by chance comes at most once for a request."""
        rate = self.simulation.model(model).too_many_requests
        row = self._row(model)
        # As providers do: what is asked is counted before it is answered.
        headers = self._buckets[model].take(len(prompt) / _CHARACTERS)
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
            msg = "response_format.type must be json_schema"
            raise SimulationError(msg)
        images: list[str] = []
        texts: list[str] = []
        for message in messages:
            content = message["content"]
            parts: list[dict[str, Any]] = [{"type": "text", "text": content}] if isinstance(content, str) else content
            for part in parts:
                if part["type"] == "text":
                    texts.append(part["text"])
                else:
                    images.append(part["image_url"]["url"])
        if len(images) != 1 or not images[0].startswith("data:image/"):
            msg = f"expected one image as a data URI, found {len(images)} images"
            raise SimulationError(msg)
        data = base64.b64decode(images[0].partition(",")[2], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        if isinstance(error, SimulationError):
            raise
        msg = f"not a chat request: {type(error).__name__}: {error}"
        raise SimulationError(msg) from None
    return model, hashlib.sha256(data).hexdigest(), "\n".join(texts)


def _error(message: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "simulation"}}
