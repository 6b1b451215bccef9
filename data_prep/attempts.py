"""Attempts: sending one request until there is a reply or a reason to stop. Each attempt is a row of the ledger before it is sent.

The `openai` client does the talking, its own retries off, since each attempt may cost money. What is done after a failure:
a refusal for the rate (429) and a failure that the server itself reports (5xx) are tried again; a connection that was lost after
sending is not, since the request may have been answered and billed.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data_prep.completion import never_sent, root_cause, usage_of
from data_prep.config import EndpointConfig, Price
from data_prep.errors import PrepError
from data_prep.ledger import Ledger
from data_prep.money import NANO, Budget, Tally
from data_prep.rate import RateLimit, retry_after
from data_prep.request import Request

if TYPE_CHECKING:
    import openai

_RETRIED = (408, 409, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""Statuses with which a server says that it did not answer; 409 and 52x are those of gateways."""
_FATAL = (401, 402, 403, 404)
"""Nothing is gained by going on: the key, the account, the address or the model's name is wrong."""
_BACK_OFF = 60.0
"""The most seconds of our own back-off; a Retry-After is obeyed whatever its length."""


class Stopped(Exception):
    """The pass was asked to stop; nothing was sent."""


class CallError(PrepError, RuntimeError):
    """A call that cannot succeed for any image; the pass ends."""


@dataclass(frozen=True)
class Failure:
    """Why there is no reply.

    kind: `invalid` (asked again as often as allowed), `refused` (the model or the endpoint declines this image), `unknown`
    (sent once, outcome not known, not sent again), `gave_up` (429, 5xx or no connection too often), `batched` (travels in a batch
    that has not ended), `budget` (it would not fit the budget).
    """

    kind: str
    message: str

    @property
    def final(self) -> bool:
        """Whether another run would get the same; the others are tried again by the next run."""
        return self.kind in ("invalid", "refused")


@dataclass
class Halt:
    """Whether a pass stops, and why."""

    asked: bool = False
    """Nothing more is sent; what is in flight is waited for."""
    fatal: CallError | None = None
    """Why the pass cannot go on."""
    by_budget: bool = False
    """The next request would not have fitted the budget."""

    def __call__(self) -> bool:
        return self.asked

    def fail(self, message: str) -> CallError:
        """Stop because of an error; the first one is kept."""
        self.asked = True
        self.fatal = self.fatal or CallError(message)
        return self.fatal


@dataclass(frozen=True)
class Again:
    """The attempt failed in a way that costs nothing; try again."""

    problem: str
    wait: float | None = None
    """Seconds that the server asks for; None: our own back-off."""
    unsent: bool = False


class Attempts:
    """Sends requests to all endpoints of a pass.

    Args:
        ledger: opened for writing.
        prices: by model.
        endpoints: all that will be asked; the keys are read from the environment here.
        budget: what may be spent.
        tally: counts.
        halt: looked at before everything is sent.

    Raises:
        ConfigError: a key is missing.
    """

    path = "/chat/completions"
    unknown_statuses: tuple[int, ...] = ()
    """Statuses that do not say what became of the request."""

    def __init__(
        self,
        ledger: Ledger,
        prices: Mapping[str, Price],
        endpoints: list[EndpointConfig],
        budget: Budget,
        tally: Tally,
        halt: Halt,
    ) -> None:
        self.ledger, self.prices, self.budget, self.tally, self.halt = ledger, prices, budget, tally, halt
        self.clients = {e.name: _client(e) for e in endpoints}
        self._slots = {e.name: asyncio.Semaphore(e.concurrency) for e in endpoints}
        # An annotator and the critic may be the same model: a provider counts them as one.
        self.limits = {(e.base_url, e.model): RateLimit() for e in endpoints}
        # Back-off is spread so that many waiting callers do not come back at once; it decides nothing that is kept.
        self._random = random.Random()

    async def close(self) -> None:
        """Close the connections."""
        for client in self.clients.values():
            await client.close()

    async def run(self, request: Request, key: str) -> bytes | Failure:
        """The raw body of a reply, paid for now.

        Raises:
            CallError: the endpoint can answer no request at all.
            Stopped: the pass is stopping, or its budget is spent.
        """
        endpoint = request.endpoint
        problem = ""
        never_connected = True
        for attempt in range(endpoint.max_attempts):
            async with self._slots[endpoint.name]:
                result = await self._attempt(request, key)
            if isinstance(result, bytes | Failure):
                return result
            problem = result.problem
            never_connected = never_connected and result.unsent
            if attempt + 1 < endpoint.max_attempts and result.wait is None:
                await self._back_off(attempt)
        if never_connected:
            raise self.halt.fail(f"{endpoint.name}: cannot connect to {endpoint.base_url}: {problem}")
        return Failure("gave_up", f"{endpoint.max_attempts} attempts, last: {problem}")

    async def _back_off(self, attempt: int) -> None:
        end = time.monotonic() + min(_BACK_OFF, 0.5 * 2**attempt) * self._random.uniform(0.5, 1.0)
        while (left := end - time.monotonic()) > 0 and not self.halt():
            await asyncio.sleep(min(left, 0.5))

    async def _attempt(self, request: Request, key: str) -> bytes | Failure | Again:
        model = request.endpoint.model
        limit = self.limits[request.endpoint.base_url, model]
        ticket = await limit.wait(self.halt)
        if self.halt():
            raise Stopped
        bound = request.upper_nano(self.prices[model])
        upper = self.budget.scaled(model, bound or 0)
        if not await self.budget.reserve(upper, self.halt):
            if not self.halt():
                self.halt.by_budget = self.halt.asked = True
            raise Stopped
        cost: int | None = 0
        try:
            await limit.pause_over(self.halt)
            if self.halt():
                raise Stopped
            result, cost = await self._send(request, key, None if bound is None else upper, limit, ticket)
            return result
        finally:
            self.tally.over_bound += self.budget.settle(model, upper, cost)

    async def _send(
        self, request: Request, key: str, upper: int | None, limit: RateLimit, ticket: float
    ) -> tuple[bytes | Failure | Again, int | None]:
        """Send once; what came of it, and what it cost (None: not known)."""
        import openai

        endpoint, ledger = request.endpoint, self.ledger
        body = request.body()
        call = await ledger.begin_call(**request.intent(key, upper))
        self.tally.requests += 1
        try:
            raw = await post(self.clients[endpoint.name], self.path, body)
        except openai.APIStatusError as error:
            status, said = error.status_code, error.response.content
            self.tally.statuses[status] += 1
            if status in self.unknown_statuses:
                return await self._unknown(call, f"HTTP {status}"), None
            await ledger.end_call(call, "rejected", ended=time.time(), status=status, raw=said, cost_nano=0)
            return self._judge(endpoint, status, said, error.response.headers, limit, ticket), 0
        except openai.APIConnectionError as error:
            cause = root_cause(error)
            if not never_sent(error):
                return await self._unknown(call, cause), None
            await ledger.end_call(call, "unsent", ended=time.time(), error=cause, cost_nano=0)
            return Again(cause, unsent=True), 0
        limit.replied()
        kept, cost, tokens = await self._received(endpoint, raw, upper)
        await ledger.end_call(call, "reply", ended=time.time(), status=200, raw=kept, tokens=tokens, cost_nano=cost)
        self.tally.cost_nano += cost
        self.tally.estimated += tokens is None
        return kept, cost

    async def _unknown(self, call: int, cause: str) -> Failure:
        self.tally.unknown += 1
        await self.ledger.end_call(call, "unknown", ended=time.time(), error=cause)
        return Failure("unknown", cause)

    async def _received(
        self, endpoint: EndpointConfig, raw: bytes, upper: int | None
    ) -> tuple[bytes, int, tuple[int, int] | None]:
        """What the ledger keeps of a reply, its cost in nano-dollars, and its tokens (None: it names none)."""
        return raw, *price_reply(raw, self.prices[endpoint.model], upper)

    def _judge(
        self, endpoint: EndpointConfig, status: int, raw: bytes, headers: Mapping[str, str], limit: RateLimit, ticket: float
    ) -> Failure | Again:
        said = raw[:300].decode("utf-8", "replace")
        where = f"{endpoint.name}: {endpoint.base_url}"
        if status in _FATAL or (status == 429 and _error_code(raw) == "insufficient_quota"):
            raise self.halt.fail(f"{where} answers HTTP {status} for model {endpoint.model!r}: {said}")
        if status not in _RETRIED:
            limit.replied()
            return Failure("refused", f"HTTP {status}: {said}")
        wait = retry_after(headers)
        if wait is not None and wait > endpoint.max_retry_after:
            raise self.halt.fail(
                f"{where} asks to come again in {wait:.0f} s (HTTP {status}: {said}); "
                f"that is more than max_retry_after ({endpoint.max_retry_after:.0f} s)"
            )
        if status == 429:
            limit.refused(ticket, wait)
        elif wait is not None:
            limit.pause(wait)
        return Again(f"HTTP {status}: {said}", wait)


def price_reply(raw: bytes, price: Price, upper: int | None) -> tuple[int, tuple[int, int] | None]:
    """Nano-dollars of a reply and its (prompt, output) tokens.

    A reply that names no usage is counted at the bound of its request, so that a budget holds; its tokens are None.
    """
    usage = usage_of(raw)
    if usage is None:
        return upper or 0, None
    return price.cost(*usage), (usage[0], usage[2])


async def post(client: openai.AsyncOpenAI, path: str, body: dict[str, Any]) -> bytes:
    """The raw body of an answer: what the ledger keeps. Typed objects of it would cost as much time as the rest of the call."""
    import httpx2

    return (await client.post(path, cast_to=httpx2.Response, body=body)).content


def _error_code(raw: bytes) -> str | None:
    try:
        return str(json.loads(raw)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return None


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


def dollars(nano: int) -> str:
    """For people."""
    return f"${nano / NANO:.6f}"
