"""Attempts: sending one request until there is a reply or a reason to stop. Each attempt is a row of the ledger before it is sent.

The endpoint's `Provider` does the talking and retries nothing, since each attempt may cost money. What is done after a failure:
a refusal for the rate (429) and a failure that the server itself reports (5xx) are tried again; a connection that was lost after
sending is not, nor is a request to which a gateway had no answer in time, since it may have been answered and billed. An endpoint
that answers nobody is waited for (`outage`).
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property

from data_prep.provider.base import Provider, Question
from data_prep.provider.budget import Budget, Tally
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import CallError, Failure, NotSentError, PassStoppedError, Retry, StopSignal
from data_prep.provider.outage import Outage, in_words
from data_prep.provider.prices import Price, price_reply
from data_prep.provider.rate import RateLimit, RateObserver
from data_prep.provider.received import NotFromApi, Paid, TransientError
from data_prep.provider.registry import PROVIDERS
from data_prep.provider.request import Request
from data_prep.provider.statuses import RETRIED_STATUSES, UNKNOWN_OUTCOME_STATUSES
from data_prep.provider.taken_parameters import TakenParameters
from data_prep.provider.transport import HttpAnswer, TransportError, without_key
from data_prep.store.disk_space import DiskSpace
from data_prep.store.ledger import Ledger
from emo_lightning.core.web.waiting import retry_after

_GRACE = 1.0
"""Seconds by which the limit of a whole request is above the client's own, which knows whether anything was sent."""
_BACK_OFF = 60.0
"""The most seconds of our own back-off; a Retry-After is obeyed whatever its length."""


class Attempts:
    """Sends requests to all endpoints of a pass.

    Args:
        ledger: opened for writing.
        prices: by model.
        endpoints: all that will be asked; the keys are read from the environment here.
        budget: what may be spent.
        tally: counts.
        stop: looked at before everything is sent.

    Raises:
        ConfigError: a key is missing.
    """

    spare = 0.25
    """Requests that may be open beside those that are on their way, as a share of `concurrency`: their intent or their reply is
    being written to disk meanwhile, so that no connection waits for that."""

    def __init__(
        self,
        ledger: Ledger,
        prices: Mapping[str, Price],
        endpoints: list[EndpointConfig],
        budget: Budget,
        tally: Tally,
        stop: StopSignal,
    ) -> None:
        self.ledger, self.prices, self.budget, self.tally, self.stop = ledger, prices, budget, tally, stop
        self._api_keys = {e.name: e.api_key() for e in endpoints}
        self.connections = {e.name: self.provider(e).connect(e.base_url, self._api_keys[e.name], e.timeout) for e in endpoints}
        self._slots = {e.name: asyncio.Semaphore(e.concurrency) for e in endpoints}
        # Requests on disk that have not ended: those on their way, and a few whose intent or reply is being written meanwhile.
        self._open = {e.name: asyncio.Semaphore(self.at_once(e)) for e in endpoints}
        # An annotator and the critic may be the same model: a provider counts them as one.
        self.limits = {(e.base_url, e.model): RateLimit() for e in endpoints}
        self.outages = {(e.base_url, e.model): Outage(f"{e.name}: {e.base_url}") for e in endpoints}
        self.taken = TakenParameters()
        # Back-off is spread so that many waiting callers do not come back at once; it decides nothing that is kept.
        self._random = random.Random()

    @cached_property
    def disk_space(self) -> DiskSpace:
        """On the disk of the ledger, where that is on this machine."""
        return DiskSpace(self.ledger.path)

    def at_once(self, endpoint: EndpointConfig) -> int:
        """The most requests of an endpoint that are on disk without an end: what a kill may leave unknown.

        So many callers at a time keep the endpoint busy.
        """
        return endpoint.concurrency + math.ceil(self.spare * endpoint.concurrency)

    def provider(self, endpoint: EndpointConfig) -> Provider:
        """Who speaks the endpoint's API."""
        return PROVIDERS[endpoint.provider]

    async def close(self) -> None:
        """Close the connections."""
        for connection in self.connections.values():
            await connection.close()

    async def run(self, request: Request, key: str) -> bytes | Failure:
        """The raw body of a reply, paid for now.

        Raises:
            CallError: the endpoint can answer no request at all.
            PassStoppedError: the pass is stopping, or its budget is spent.
        """
        endpoint = request.endpoint
        outage = self.outages[endpoint.base_url, endpoint.model]
        tried = 0
        while True:
            async with self._open[endpoint.name]:
                result = await self._attempt(request, key)
            if isinstance(result, bytes | Failure):
                return result
            tried += not (outage.lasting or result.learnt)
            if tried >= endpoint.max_attempts:
                break
            if result.wait is None or (tried > 1 and not result.learnt):
                # A server that says "at once", again and again, must not use up all attempts at once.
                await self._back_off(tried - 1)
        if not outage.connected:
            msg = f"{endpoint.name}: cannot connect to {endpoint.base_url}: {result.problem}"
            raise self.stop.fail(msg)
        return Failure("gave_up", f"{endpoint.max_attempts} attempts, last: {result.problem}")

    async def _back_off(self, attempt: int) -> None:
        end = time.monotonic() + min(_BACK_OFF, 0.5 * 2 ** max(0, attempt)) * self._random.uniform(0.5, 1.0)
        while (left := end - time.monotonic()) > 0 and not self.stop.is_requested():
            await asyncio.sleep(min(left, 0.5))

    async def _attempt(self, request: Request, key: str) -> bytes | Failure | Retry:
        """Send once, as soon as it may be sent; the endpoint's `Outage` is told what came of it."""
        endpoint = request.endpoint
        outage, limit = self.outages[endpoint.base_url, endpoint.model], self.limits[endpoint.base_url, endpoint.model]
        await outage.turn(self.stop.is_requested)
        began = outage.now()
        result = await self._in_time(request, key)
        match result:
            case Retry(learnt=True):
                limit.rate = outage.answered(began) or limit.rate
                return result
            case Retry(problem=problem, unsent=unsent):
                outage.failed(key, problem, limit.rate, connected=not unsent)
            case Failure(kind="unknown", message=problem):
                outage.failed(key, problem, limit.rate, connected=True, costly=True)
            case _:
                limit.rate = outage.answered(began) or limit.rate
                return result
        if outage.lasting and outage.seconds > endpoint.max_outage:
            msg = f"{outage.why()}; that is more than max_outage ({in_words(endpoint.max_outage)})"
            raise self.stop.fail(msg)
        return result

    async def _in_time(self, request: Request, key: str) -> bytes | Failure | Retry:
        """Send once, when rate and budget permit it."""
        model = request.endpoint.model
        limit = self.limits[request.endpoint.base_url, model]
        bound = request.upper_nano(self.prices[model])
        while True:
            await self.disk_space.wait(self.stop.is_requested)
            ticket = await limit.wait(self.stop.is_requested)
            if self.stop.is_requested():
                raise PassStoppedError
            upper = self.budget.scaled(model, bound or 0)
            if not await self.budget.reserve(upper, self.stop.is_requested):
                if not self.stop.is_requested():
                    self.stop.by_budget = True
                    self.stop.request()
                raise PassStoppedError
            # Whatever ends it: what may have been sent stays held.
            cost: int | None = None
            try:
                await limit.pause_over(self.stop.is_requested)
                if self.stop.is_requested():
                    raise PassStoppedError
                result, cost = await self._send(request, key, None if bound is None else upper, limit, ticket)
            except NotSentError:
                cost = 0
                continue
            except (PassStoppedError, CallError):
                cost = 0
                raise
            finally:
                self.tally.over_bound += self.budget.settle(model, upper, cost, bound)
            return result

    async def _send(
        self, request: Request, key: str, upper: int | None, limit: RateObserver, ticket: float
    ) -> tuple[bytes | Failure | Retry, int | None]:
        """Send once; what came of it, and what it cost (None: not known).

        Raises:
            NotSentError: a pause was asked for while the intent was written.
            PassStoppedError: the pass stopped meanwhile.
        """
        endpoint, ledger = request.endpoint, self.ledger
        # Reading and encoding an image would hold up every other request.
        question, body = await asyncio.to_thread(self._body, request)
        call = await ledger.begin_call(**request.intent(key, upper))
        try:
            # Held while the request is on its way and no longer: another one may be sent while its reply is written.
            async with self._slots[endpoint.name]:
                if self.stop.is_requested() or limit.paused:
                    raise PassStoppedError if self.stop.is_requested() else NotSentError
                self.tally.requests += 1
                answer = await self._post(endpoint, body, limit, ticket)
        except (PassStoppedError, NotSentError):
            await ledger.end_call(call, "unsent", ended=time.time(), error="stopped before it was sent", cost_nano=0)
            raise
        except TransportError as error:
            if error.sent:
                return await self._unknown(call, str(error)), None
            await ledger.end_call(call, "unsent", ended=time.time(), error=str(error), cost_nano=0)
            if error.hopeless:
                msg = f"{endpoint.name}: nothing can be sent to {endpoint.base_url}: {error}"
                raise self.stop.fail(msg) from None
            return Retry(str(error), unsent=True), 0
        except TimeoutError:
            # A connection that keeps no limit of its own.
            return await self._unknown(call, f"no whole answer within {endpoint.timeout:g} s"), None
        answer = replace(answer, body=without_key(answer.body, self._api_keys[endpoint.name]))
        if 200 <= answer.status < 300:
            return await self._keep(endpoint, call, answer.body, upper)
        self.tally.statuses[answer.status] += 1
        if answer.status in UNKNOWN_OUTCOME_STATUSES:
            return await self._unknown(call, f"HTTP {answer.status}"), None
        await ledger.end_call(call, "rejected", ended=time.time(), status=answer.status, raw=answer.body, cost_nano=0)
        if self.learn(endpoint, answer, question):
            return Retry(f"HTTP {answer.status}: {answer.shown()}", wait=0.0, learnt=True), 0
        return self._judge(endpoint, answer), 0

    def question(self, request: Request) -> Question:
        """As it is sent: with the parameters that the model takes; reads the image."""
        question = request.question()
        return replace(question, parameters=self.taken.fit(request.endpoint, question.parameters))

    def learn(self, endpoint: EndpointConfig, answer: HttpAnswer, question: Question) -> bool:
        """Whether an answer declines a parameter, and the same question can be asked without it."""
        learnt = self.taken.learn(endpoint, self.provider(endpoint), answer, question)
        if learnt is not None:
            self.tally.adapted[learnt[0]] += 1
        return learnt is not None

    def _body(self, request: Request) -> tuple[Question, Mapping[str, object]]:
        question = self.question(request)
        return question, self.provider(request.endpoint).body(question)

    async def _post(
        self, endpoint: EndpointConfig, body: Mapping[str, object], limit: RateObserver, ticket: float
    ) -> HttpAnswer:
        """Send, and tell the rate limit what its provider says, before anybody else may send."""
        provider = self.provider(endpoint)
        async with asyncio.timeout(endpoint.timeout + _GRACE):
            answer = await self.connections[endpoint.name].post(provider.path(endpoint.model), body)
        accepted = 200 <= answer.status < 300
        if not accepted and provider.is_fatal(answer.status, answer.body):
            # What is said of it comes when it is written down; nothing more is sent meanwhile.
            self.stop.request()
        if left := provider.reported_buckets(answer.headers):
            limit.update(ticket, left)
        wait = retry_after(answer.headers)
        if answer.status == 429:
            limit.refused(ticket, wait)
        elif accepted or answer.status not in RETRIED_STATUSES:
            limit.replied(ticket)
        elif wait is not None:
            limit.pause(wait)
        return answer

    async def _keep(self, endpoint: EndpointConfig, call: int, raw: bytes, upper: int | None) -> tuple[bytes | Retry, int]:
        """Write what a 200 brought."""
        ledger, provider = self.ledger, self.provider(endpoint)
        body = provider.read(raw)
        if isinstance(body, TransientError | NotFromApi):
            await ledger.end_call(call, "rejected", ended=time.time(), status=200, raw=raw, cost_nano=0)
            if provider.is_fatal(200, raw):
                msg = f"{endpoint.name}: {endpoint.base_url} answers for model {endpoint.model!r}: {body.why}"
                raise self.stop.fail(msg)
            return Retry(f"HTTP 200 with no answer in it: {body.why}"), 0
        kept, cost, tokens = await self.received(endpoint, raw, body, upper)
        model = provider.answered_model(raw)
        await ledger.end_call(
            call, "reply", ended=time.time(), status=200, raw=kept, tokens=tokens, cost_nano=cost, answered_model=model
        )
        self.tally.cost_nano += cost
        self.tally.estimated += tokens is None
        return kept, cost

    async def _unknown(self, call: int, cause: str) -> Failure:
        self.tally.unknown += 1
        await self.ledger.end_call(call, "unknown", ended=time.time(), error=cause)
        return Failure("unknown", cause)

    async def received(
        self, endpoint: EndpointConfig, raw: bytes, body: Paid, upper: int | None, *, batch: bool = False
    ) -> tuple[bytes, int, tuple[int, int] | None]:
        """What the ledger keeps of a reply, its cost in nano-dollars, and its tokens (None: it names none).

        Args:
            endpoint: that gave it.
            raw: the body.
            body: what it is.
            upper: the most that its request could cost.
            batch: whether it came in a batch.
        """
        price = self.prices[endpoint.model]
        return raw, *price_reply(body, (batch and price.batch) or price, upper)

    def _judge(self, endpoint: EndpointConfig, answer: HttpAnswer) -> Failure | Retry:
        status, said = answer.status, answer.shown()
        where = f"{endpoint.name}: {endpoint.base_url}"
        if self.provider(endpoint).is_fatal(status, answer.body):
            msg = f"{where} answers HTTP {status} for model {endpoint.model!r}: {said}"
            raise self.stop.fail(msg)
        if status not in RETRIED_STATUSES:
            return Failure("refused", f"HTTP {status}: {said}")
        wait = retry_after(answer.headers)
        if wait is not None and wait > endpoint.max_outage:
            msg = (
                f"{where} asks to come again in {wait:.0f} s (HTTP {status}: {said}); "
                f"that is more than max_outage ({in_words(endpoint.max_outage)})"
            )
            raise self.stop.fail(msg)
        return Retry(f"HTTP {status}: {said}", wait)
