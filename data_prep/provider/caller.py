"""Paid calls: every question goes through the ledger, every reply is bought once.

A request is answered from the ledger where the same one (image, prompt, schema, model, parameters) was answered before; else
`attempts` buys it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypedDict, TypeVar

from data_prep.provider import party
from data_prep.provider.attempts import Attempts
from data_prep.provider.base import Completion
from data_prep.provider.budget import Budget, Tally
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import Failure, StopSignal
from data_prep.provider.prices import Price
from data_prep.provider.registry import PROVIDERS
from data_prep.provider.reply_schema import INVALID_REPLY, InvalidReplyError, Reply, parse_reply
from data_prep.provider.request import LaterTurn, Picture, Request
from data_prep.settings import ConfigError
from data_prep.store.ledger import Ledger

_T = TypeVar("_T", bound=Reply)

_SHOWN_AGAIN = 10_000
"""Characters of a bad reply that are sent back with what is wrong: an endless one would cost as much again."""


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

    async def close(self) -> None:
        """Close the connections."""
        await self.attempts.close()

    async def ask(
        self, endpoint: EndpointConfig, picture: Picture, prompt: str, reply: type[_T], *, max_invalid: int
    ) -> tuple[_T | Failure, str]:
        """One validated reply about one image, and the cache key of the call that gave it.

        A reply that does not follow the schema is kept and paid for, and asked again with the validation error at most
        `max_invalid` times.

        Raises:
            CallError: the endpoint can answer no request at all.
            PassStoppedError: the pass is stopping.
        """
        return await self.ask_request(Request(endpoint, picture, prompt, (), reply), reply, max_invalid=max_invalid)

    async def ask_request(self, request: Request, reply: type[_T], *, max_invalid: int) -> tuple[_T | Failure, str]:
        """As `ask`, for a request of any kind; `reply` is what its reply is read as."""
        error = ""
        key = ""
        for attempt in range(1, max_invalid + 2):
            key = self.key(request)
            raw = await self._paid_once(request, key)
            if isinstance(raw, Failure):
                return raw, key
            message = self.read(request.endpoint, raw)
            if message.refusal:
                return Failure("refused", message.refusal), key
            try:
                return parse_reply(reply, message.text), key
            except InvalidReplyError as problem:
                error = str(problem)
                self.tally.invalid += 1
            # Only the last bad reply is shown again: a growing conversation would grow the bill. The number makes a second try
            # a new question even where the model repeats itself.
            turns: tuple[LaterTurn, ...] = (
                {"role": "assistant", "content": (message.text or "")[:_SHOWN_AGAIN]},
                {"role": "user", "content": INVALID_REPLY.format(attempt=attempt, error=error)},
            )
            request = replace(request, turns=turns)
        return Failure("invalid", error), key

    def key(self, request: Request) -> str:
        """Under which the ledger has a question, or will have it: replies of before parties were told apart are found (`party`)."""
        found = party.kept(self.ledger, request, self._endpoints)
        return request.key if found is None or (self._resend_unknown and found.state == "unknown") else found.key

    def answered_model(self, endpoint: EndpointConfig, key: str) -> str | None:
        """The model that a reply names."""
        raw = self.ledger.cached_reply(key)
        return None if raw is None else PROVIDERS[endpoint.provider].answered_model(raw)

    @staticmethod
    def read(endpoint: EndpointConfig, raw: bytes) -> Completion:
        """What a reply says; a body that is none counts as an empty text (it was paid all the same)."""
        return PROVIDERS[endpoint.provider].read(raw) or Completion()

    async def _paid_once(self, request: Request, key: str) -> bytes | Failure:
        if (raw := self.ledger.cached_reply(key)) is not None:
            self.tally.cached += 1
            return raw
        if key in self._in_flight:
            # The same bytes under another item: wait for the one request.
            return await asyncio.shield(self._in_flight[key])
        if self.ledger.is_open(key, "batched"):
            return Failure("batched", "travels in a batch that has not ended")
        if not self._resend_unknown and self.ledger.is_open(key, "unknown"):
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

    async def buy(self, request: Request, key: str) -> bytes | Failure:
        """A reply that the ledger does not have."""
        return await self.attempts.run(request, key)


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
