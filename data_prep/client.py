"""Paid calls: every request goes through the ledger, every reply is bought once.

The `openai` client does the talking (its own retries off, since each attempt is a row and may cost money). A request is
answered from the ledger where the same one (image, prompt, schema, model, parameters) was answered before.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from data_prep.completion import cache_key, message_of, never_sent, root_cause, usage_of
from data_prep.config import ConfigError, EndpointConfig, Price
from data_prep.errors import PrepError
from data_prep.ledger import Ledger
from data_prep.prompts import INVALID_REPLY
from data_prep.replies import InvalidReply, Reply, parse_reply, strict_schema

if TYPE_CHECKING:
    import openai

_T = TypeVar("_T", bound=Reply)

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_RETRIED = (429, 500, 502, 503, 504)
_FATAL = (401, 402, 403, 404)
"""Nothing is gained by going on: the key, the account, the address or the model's name is wrong."""
_MAX_WAIT = 60.0
"""Seconds; also the most that a Retry-After is obeyed without giving the attempt up."""


class Stopped(Exception):
    """The pass was asked to stop; nothing was sent."""


class CallError(PrepError, RuntimeError):
    """A call that cannot succeed for any image; the pass ends."""


@dataclass(frozen=True)
class Picture:
    """An image as a request carries it."""

    sha256: str
    extension: str
    read: Callable[[], bytes]

    def data_uri(self) -> str:
        """`data:image/…;base64,…`"""
        return f"data:{_MEDIA[self.extension]};base64,{base64.b64encode(self.read()).decode()}"


@dataclass(frozen=True)
class Failure:
    """Why there is no reply.

    kind: `invalid` (asked again as often as allowed), `refused` (the model or the endpoint declines this image), `unknown`
    (sent once, outcome not known, not sent again), `gave_up` (429, 5xx or no connection too often).
    """

    kind: str
    message: str

    @property
    def final(self) -> bool:
        """Whether another run would get the same; the others are tried again by the next run."""
        return self.kind in ("invalid", "refused")


@dataclass
class Tally:
    """What a pass did so far, for progress and report."""

    requests: int = 0
    cached: int = 0
    invalid: int = 0
    unknown: int = 0
    cost_nano: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """HTTP statuses other than 200."""


class Caller:
    """Asks models, through the ledger.

    Args:
        ledger: opened for writing.
        prices: by model.
        endpoints: all that will be asked; the keys are read from the environment here.
        resend_unknown: send again what was sent once with unknown outcome (it may be paid twice).

    Raises:
        ConfigError: a key or a price is missing.
    """

    def __init__(
        self, ledger: Ledger, prices: Mapping[str, Price], endpoints: list[EndpointConfig], *, resend_unknown: bool = False
    ) -> None:
        missing = sorted({e.model for e in endpoints} - set(prices))
        if missing:
            raise ConfigError(f"no price for {', '.join(missing)}; the price table has {', '.join(sorted(prices))}")
        self.ledger = ledger
        self.tally = Tally()
        self.stop = False
        self.fatal: CallError | None = None
        """Why the pass cannot go on; set with `stop`, so that nothing more is sent."""
        self._prices = prices
        self._resend_unknown = resend_unknown
        self._clients = {e.name: _client(e) for e in endpoints}
        self._slots = {e.name: asyncio.Semaphore(e.concurrency) for e in endpoints}
        self._in_flight: dict[str, asyncio.Future[bytes | Failure]] = {}
        # Back-off is spread so that many waiting callers do not come back at once; it decides nothing that is kept.
        self._random = random.Random()

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()

    async def ask(
        self, endpoint: EndpointConfig, picture: Picture, prompt: str, reply: type[_T], *, max_invalid: int
    ) -> tuple[_T | Failure, str]:
        """One validated reply about one image, and the cache key of the call that gave it.

        A reply that does not follow the schema is kept and paid for, and asked again with the validation error at most
        `max_invalid` times.

        Raises:
            CallError: the endpoint can answer no request at all.
            Stopped: the pass is stopping.
        """
        turns: list[dict[str, Any]] = []
        error = ""
        key = ""
        for attempt in range(1, max_invalid + 2):
            key, raw = await self._paid_once(endpoint, picture, prompt, turns, reply)
            if isinstance(raw, Failure):
                return raw, key
            message = message_of(raw)
            if message.refusal:
                return Failure("refused", message.refusal), key
            try:
                return parse_reply(reply, message.text), key
            except InvalidReply as problem:
                error = str(problem)
                self.tally.invalid += 1
            # Only the last bad reply is shown again: a growing conversation would grow the bill. The number makes a second try
            # a new question even where the model repeats itself.
            turns = [
                {"role": "assistant", "content": message.text or ""},
                {"role": "user", "content": INVALID_REPLY.format(attempt=attempt, error=error)},
            ]
        return Failure("invalid", error), key

    async def _paid_once(
        self, endpoint: EndpointConfig, picture: Picture, prompt: str, turns: list[dict[str, Any]], reply: type[Reply]
    ) -> tuple[str, bytes | Failure]:
        schema = strict_schema(reply)
        text = json.dumps([prompt, turns], ensure_ascii=False)
        key = cache_key(picture.sha256, text, schema, endpoint.model, endpoint.parameters)
        if (raw := self.ledger.cached_reply(key)) is not None:
            self.tally.cached += 1
            return key, raw
        if key in self._in_flight:
            # The same bytes under another item: wait for the one request.
            return key, await asyncio.shield(self._in_flight[key])
        if not self._resend_unknown and self.ledger.has_unknown(key):
            return key, Failure("unknown", "sent before, outcome unknown")
        done: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = done
        try:
            content = [
                {"type": "text", "text": prompt},
                {"type": "image_url", "image_url": {"url": picture.data_uri()}},
            ]
            body = {
                "model": endpoint.model,
                "messages": [{"role": "user", "content": content}, *turns],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": reply.__name__, "strict": True, "schema": schema},
                },
                **endpoint.parameters,
            }
            result = await self._attempts(endpoint, picture, key, text, body)
            done.set_result(result)
            return key, result
        except BaseException as error:
            done.set_exception(error)
            # Nobody may be waiting; a future whose exception is never read would be reported as lost.
            done.exception()
            raise
        finally:
            del self._in_flight[key]

    async def _attempts(
        self, endpoint: EndpointConfig, picture: Picture, key: str, text: str, body: dict[str, Any]
    ) -> bytes | Failure:
        problem = ""
        never_connected = True
        for attempt in range(endpoint.max_attempts):
            async with self._slots[endpoint.name]:
                if self.stop:
                    raise Stopped
                result = await self._send(endpoint, picture, key, text, body)
            if isinstance(result, bytes | Failure):
                return result
            problem = result.problem
            never_connected = never_connected and result.unsent
            if attempt + 1 < endpoint.max_attempts:
                await self._wait(result.retry_after, attempt)
        if never_connected:
            raise self._fatal(f"{endpoint.name}: cannot connect to {endpoint.base_url}: {problem}")
        return Failure("gave_up", f"{endpoint.max_attempts} attempts, last: {problem}")

    def _fatal(self, message: str) -> CallError:
        self.stop = True
        self.fatal = self.fatal or CallError(message)
        return self.fatal

    async def _wait(self, retry_after: float | None, attempt: int) -> None:
        wait = min(_MAX_WAIT, 0.5 * 2**attempt) * self._random.uniform(0.5, 1.0)
        end = time.monotonic() + min(_MAX_WAIT, max(retry_after, 0.01) if retry_after is not None else wait)
        while (left := end - time.monotonic()) > 0 and not self.stop:
            await asyncio.sleep(min(left, 0.5))

    async def _send(
        self, endpoint: EndpointConfig, picture: Picture, key: str, text: str, body: dict[str, Any]
    ) -> bytes | Failure | _Again:
        import httpx2
        import openai

        ledger = self.ledger
        call = await ledger.begin_call(
            cache_key=key,
            image_sha256=picture.sha256,
            prompt_sha256=hashlib.sha256(text.encode()).hexdigest(),
            prompt=text,
            annotator=endpoint.name,
            model=endpoint.model,
            started=time.time(),
        )
        self.tally.requests += 1
        try:
            # `post` of the client, not `chat.completions.create`: the raw body is what the ledger keeps, and building typed
            # objects of it costs as much time as the rest of the call.
            response = await self._clients[endpoint.name].post("/chat/completions", cast_to=httpx2.Response, body=body)
        except openai.APIStatusError as error:
            status = error.status_code
            self.tally.statuses[status] += 1
            raw = error.response.content
            await ledger.end_call(call, "rejected", ended=time.time(), status=status, raw=raw, cost_nano=0)
            if status in _FATAL:
                said = raw[:300].decode("utf-8", "replace")
                where = f"{endpoint.name}: {endpoint.base_url}"
                raise self._fatal(f"{where} answers HTTP {status} for model {endpoint.model!r}: {said}") from None
            return _judge_status(status, raw, error.response.headers.get("retry-after"))
        except openai.APIConnectionError as error:
            cause = root_cause(error)
            if never_sent(error):
                await ledger.end_call(call, "unsent", ended=time.time(), error=cause, cost_nano=0)
                return _Again(cause, unsent=True)
            self.tally.unknown += 1
            await ledger.end_call(call, "unknown", ended=time.time(), error=cause)
            return Failure("unknown", cause)
        raw = response.content
        usage = usage_of(raw)
        cost = self._prices[endpoint.model].cost(*usage) if usage else None
        tokens = (usage[0], usage[2]) if usage else None
        await ledger.end_call(call, "reply", ended=time.time(), status=200, raw=raw, tokens=tokens, cost_nano=cost)
        self.tally.cost_nano += cost or 0
        return raw


@dataclass(frozen=True)
class _Again:
    """The attempt failed in a way that costs nothing; try again."""

    problem: str
    retry_after: float | None = None
    unsent: bool = False


def _judge_status(status: int, raw: bytes, retry_after: str | None) -> Failure | _Again:
    said = raw[:300].decode("utf-8", "replace")
    if status not in _RETRIED:
        return Failure("refused", f"HTTP {status}: {said}")
    seconds = None
    # The header may also be a date; then our own back-off serves.
    with contextlib.suppress(TypeError, ValueError):
        seconds = float(retry_after) if retry_after is not None else None
    return _Again(f"HTTP {status}: {said}", seconds)


def _client(endpoint: EndpointConfig) -> openai.AsyncOpenAI:
    import openai

    try:
        # Twice as fast as the default transport for many small requests.
        http: Any = openai.DefaultAioHttpClient(timeout=endpoint.timeout)
    except RuntimeError:
        http = openai.DefaultAsyncHttpxClient(timeout=endpoint.timeout)
    return openai.AsyncOpenAI(
        api_key=endpoint.api_key(), base_url=endpoint.base_url, max_retries=0, timeout=endpoint.timeout, http_client=http
    )
