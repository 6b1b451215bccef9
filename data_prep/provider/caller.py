"""Paid calls: every question goes through the ledger, every reply is bought once.

A request is answered from the ledger where the same one (image, prompt, schema, model, parameters) was answered before; else
`attempts` buys it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypedDict, TypeVar

from data_prep.provider import party
from data_prep.provider.attempts import Attempts
from data_prep.provider.budget import Budget, Tally
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import Failure, StopSignal
from data_prep.provider.follow_up import as_before, follow_up, longer
from data_prep.provider.prices import Price
from data_prep.provider.received import BodyOutcome, CutByLength, NotFromApi, PaidReply, Refusal, TransientError, Unusable
from data_prep.provider.recount import Recount
from data_prep.provider.registry import PROVIDERS
from data_prep.provider.reply_schema import InvalidReplyError, Reply, parse_reply, parse_strictly
from data_prep.provider.request import Picture, Request
from data_prep.settings import ConfigError
from data_prep.store.ledger import Ledger
from data_prep.store.rehearsal import check_parties

_T = TypeVar("_T", bound=Reply)


class CallerOptions(TypedDict):
    """Keyword arguments of every `Caller`."""

    resend_unknown: bool
    limit_nano: int | None
    attempts: Callable[..., Attempts]


class Caller:
    """Asks models, through the ledger.

    Args:
        ledger: opened for writing.
        prices: by model.
        endpoints: all that will be asked; the keys are read from the environment here.
        resend_unknown: send again what was sent once with unknown outcome (it may be paid twice).
        limit_nano: nano-dollars that may be spent on this store, earlier runs included; None is no limit.
        attempts: who sends (`Engine.paid`).

    Raises:
        ConfigError: a key or a price is missing, or a limit is set and a model's replies have none.
        RehearsalError: real answers in the store of a rehearsal, or made-up ones in another.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: Mapping[str, Price],
        endpoints: list[EndpointConfig],
        *,
        resend_unknown: bool = False,
        limit_nano: int | None = None,
        attempts: Callable[..., Attempts] = Attempts,
    ) -> None:
        check_prices(prices, endpoints, bounded=limit_nano is not None)
        check_parties(ledger, [endpoint.party_name for endpoint in endpoints])
        self.ledger = ledger
        self.prices = prices
        self.tally = Tally()
        self.stop = StopSignal()
        held = sum(upper for _, upper, _ in ledger.open_calls().values())
        self.budget = Budget(limit_nano, ledger.total_cost(), held)
        self.attempts = attempts(ledger, prices, endpoints, self.budget, self.tally, self.stop)
        self._resend_unknown = resend_unknown
        self._endpoints = list(endpoints)
        self._in_flight: dict[str, asyncio.Future[bytes | Failure]] = {}
        self._recount_calls = Recount(self.attempts)
        self._before = int(ledger.read("SELECT coalesce(max(id), 0) FROM calls")[0][0])
        """The newest call of earlier runs: what may be sent again is what they have sent, one by one or in a batch."""

    async def close(self) -> None:
        """Close the connections."""
        await self.attempts.close()

    async def ask(
        self, endpoint: EndpointConfig, picture: Picture, prompt: str, reply: type[_T], *, max_invalid: int
    ) -> tuple[_T | Failure, str]:
        """One validated reply about one image, and the cache key of the call that gave it.

        A reply that does not follow the schema is kept and paid for, and asked again with what was wrong at most `max_invalid`
        times; one that was cut by its limit of tokens is asked again once, with a higher one (`follow_up`).

        Raises:
            CallError: the endpoint can answer no request at all.
            PassStoppedError: the pass is stopping.
        """
        return await self.ask_request(Request(endpoint, picture, prompt, (), reply), reply, max_invalid=max_invalid)

    async def ask_request(self, request: Request, reply: type[_T], *, max_invalid: int) -> tuple[_T | Failure, str]:
        """As `ask`, for a request of any kind; `reply` is what its reply is read as."""
        failure, key, limits = Failure("invalid", "never asked"), "", request.endpoint.parameters
        for attempt in range(1, max_invalid + 2):
            key = await self.key(request)
            raw = await self._paid_once(request, key)
            raised = request.endpoint.parameters != limits
            if isinstance(raw, Failure):
                # The raised limit may be more than the model takes: the image is not declined, its reply is still cut.
                return (failure if raised and raw.kind == "refused" else raw), key
            match self.read(request.endpoint, raw):
                case TransientError(why) | NotFromApi(why):
                    return Failure("gave_up", why), key
                case Refusal(why):
                    return Failure("refused", why), key
                case body:
                    answer = _parsed(reply, body)
            if not isinstance(answer, Failure):
                return answer, key
            self.tally.invalid += 1
            failure = answer
            if attempt > max_invalid or (following := self._following(request, attempt, body, failure, raised)) is None:
                break
            request = following
        return failure, key

    def _following(
        self, request: Request, attempt: int, body: PaidReply | Unusable | CutByLength, failure: Failure, raised: bool
    ) -> Request | None:
        """The next question after a reply that cannot be used; None where nothing would be gained by one.

        Args:
            request: that was answered.
            attempt: number of the reply.
            body: the reply.
            failure: what is wrong with it.
            raised: whether its limit of tokens is a raised one.
        """
        following: Request | None
        if not isinstance(body, CutByLength):
            following = follow_up(request, attempt, body, failure.message)
        elif raised:
            # Cut all the same: a limit that grows for ever has no use.
            following = None
        else:
            following = longer(request, attempt, self.attempts.provider(request.endpoint))
        before = as_before(request, attempt, body)
        known = self._is_known(before) and not (following and self._is_known(following))
        return before if known else following

    def _is_known(self, request: Request) -> bool:
        """Whether this question was answered, or may have been: sending it would buy it twice."""
        return party.kept(self.ledger, request, self._endpoints) is not None

    async def key(self, request: Request) -> str:
        """Under which the ledger has a question, or will have it: replies of before parties were told apart are found (`party`)."""
        await self._recount_calls.put_right(request.endpoint, request.key_of(None))
        found = party.kept(self.ledger, request, self._endpoints)
        return request.key if found is None or (self._resend_unknown and found.state == "unknown") else found.key

    def answered_model(self, endpoint: EndpointConfig, key: str) -> str | None:
        """The model that a reply names."""
        raw = self.ledger.cached_reply(key)
        return None if raw is None else PROVIDERS[endpoint.provider].answered_model(raw)

    @staticmethod
    def read(endpoint: EndpointConfig, raw: bytes) -> BodyOutcome:
        """What a body is."""
        return PROVIDERS[endpoint.provider].read(raw)

    async def _paid_once(self, request: Request, key: str) -> bytes | Failure:
        if (raw := await self._from_ledger(request, key)) is not None:
            self.tally.cached += 1
            return raw
        if key in self._in_flight:
            # The same bytes under another item: wait for the one request.
            return await asyncio.shield(self._in_flight[key])
        found = party.kept(self.ledger, request, self._endpoints)
        if found is not None and found.state == "batched":
            return Failure("batched", "travels in a batch that has not ended")
        if self._is_unknown(found, key):
            return Failure("unknown", "sent before, outcome unknown")
        done: asyncio.Future[bytes | Failure] = asyncio.get_running_loop().create_future()
        self._in_flight[key] = done
        try:
            result = await self.buy(request, key)
            done.set_result(result)
            return result
        except BaseException as error:
            done.set_exception(error)
            # Nobody may be waiting; a future whose exception is never read would be reported as lost.
            done.exception()
            raise
        finally:
            del self._in_flight[key]

    def _is_unknown(self, found: party.KnownReply | None, key: str) -> bool:
        """Whether a question was sent with unknown outcome, and is not to be sent again."""
        if not self._resend_unknown:
            return found is not None and found.state == "unknown"
        query = "SELECT 1 FROM calls WHERE cache_key = ? AND state = 'unknown' AND id > ? LIMIT 1"
        return bool(self.ledger.read(query, (key, self._before)))

    async def _from_ledger(self, request: Request, key: str) -> bytes | None:
        """A reply that was paid for before."""
        await self._recount_calls.put_right(request.endpoint, key)
        return self.ledger.cached_reply(key)

    async def buy(self, request: Request, key: str) -> bytes | Failure:
        """A reply that the ledger does not have."""
        return await self.attempts.run(request, key)


def _parsed(reply: type[_T], body: PaidReply | Unusable | CutByLength) -> _T | Failure:
    """The reply as a value, or why it is none."""
    if isinstance(body, Unusable):
        return Failure("invalid", body.why)
    if isinstance(body, PaidReply):
        try:
            return parse_reply(reply, body.text)
        except InvalidReplyError as problem:
            return Failure("invalid", str(problem))
    try:
        # Some servers say `length` of a reply that is whole.
        return parse_strictly(reply, body.text)
    except InvalidReplyError:
        return Failure(
            "cut", "the reply was cut off at the limit of tokens, thinking included (max_completion_tokens or max_tokens)"
        )


def check_prices(prices: Mapping[str, Price], endpoints: list[EndpointConfig], *, bounded: bool) -> None:
    """Check that every model has a price and, for a budget, that every reply has a largest cost.

    Raises:
        ConfigError: it names the models.
    """
    missing = sorted({e.model for e in endpoints} - set(prices))
    if missing:
        msg = f"no price for {', '.join(missing)}; the price table has {', '.join(sorted(prices))}"
        raise ConfigError(msg)
    endless = [e.name for e in endpoints if prices[e.model].bound(0, e.max_output_tokens) is None]
    if bounded and endless:
        msg = (
            f"{', '.join(endless)}: a budget needs a limit on every reply; set parameters.max_completion_tokens (or max_tokens)"
        )
        raise ConfigError(msg)
