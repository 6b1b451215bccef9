"""Paid requests sent by async actors, one on every node of a cluster.

A request is a wait, not a computation, so why actors? Images are encoded to base64 and replies are read on the nodes' own cores, many
connections do not end at one address (NAT tables, limits per egress address), and the ledger's bandwidth is all that one node needs.

Who does what:

- The driver decides: order, rate, budget and concurrency are held in one place, by the code that one machine uses. So a rate limit
  or a budget holds for the whole cluster exactly, and a pause that a provider asks for is obeyed by every node.
- An actor sends: it has the intent written (on disk) before the request leaves, and the raw reply written (on disk) before it returns.
- The ledger's actor writes (`ray_ledger`).

Where a sender is lost with its node, the ledger knows more than the driver: a call with a reply is used, a call that was never
written down is sent again, and one with an intent alone is `unknown`, as after a kill on one machine. No task is run twice by Ray.

Keys come from the driver's environment and travel in a message to each actor, which holds them in memory; they are no argument of
its creation, which Ray would keep in its control store.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from operator import methodcaller
from typing import TYPE_CHECKING, Protocol, Unpack, cast

from data_prep.engine.base import EngineError, MakeAttempts
from data_prep.engine.ray_handles import RayReference, RemoteMethod, cluster_nodes, end_actor, start_actor
from data_prep.engine.ray_ledger import CallTrace, LedgerHandle, actor_result, ledger_in_actor
from data_prep.provider.attempts import Attempts
from data_prep.provider.budget import Budget, Tally
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import CallError, Failure, NotSentError, PassStoppedError, Retry, StopSignal
from data_prep.provider.prices import Price
from data_prep.provider.rate import RateObserver
from data_prep.provider.rate_headers import ReportedBucket
from data_prep.provider.request import Request
from data_prep.store.ledger import CallEnd, CallIntent, CallState, Ledger

if TYPE_CHECKING:
    from data_prep.store.store import Store

_IMAGES = 256
"""Images kept in the object store, for an item asks several models about one image."""
_NEWEST = "SELECT coalesce(max(id), 0) FROM calls WHERE cache_key = ?"
_Sent = tuple["bytes | Failure | Retry", "int | None"]


@dataclass(frozen=True)
class Delivery:
    """What came of one request, and what the driver has to be told."""

    result: bytes | Failure | Retry | None
    cost: int | None
    tally: Tally
    rate_limit_calls: list[Callable[[RateObserver], None]]
    """What the driver's `RateLimit` is to be told."""
    fatal: str = ""
    """Why the pass cannot go on; there is no result then."""


class RateRecorder:
    """Stands for a `RateLimit` that is with the driver: writes down what that is to be told."""

    paused = False
    """The driver has looked."""

    def __init__(self) -> None:
        self.calls: list[Callable[[RateObserver], None]] = []

    def pause(self, seconds: float) -> None:
        """See `RateLimit`."""
        self.calls.append(methodcaller("pause", seconds))

    def replied(self, ticket: float) -> None:
        """See `RateLimit`."""
        self.calls.append(methodcaller("replied", ticket))

    def update(self, ticket: float, left: Sequence[ReportedBucket]) -> None:
        """See `RateLimit`."""
        self.calls.append(methodcaller("update", ticket, left))

    def refused(self, ticket: float, retry_after: float | None) -> None:
        """See `RateLimit`."""
        self.calls.append(methodcaller("refused", ticket, retry_after))


class SendersLedger:
    """What a sender sees of the ledger.

    Args:
        actor: handle of the `LedgerActor`.
        sender: its number.
    """

    def __init__(self, actor: LedgerHandle, sender: int) -> None:
        self._actor, self._sender = actor, sender

    async def begin_call(self, **intent: Unpack[CallIntent]) -> int:
        """See `Ledger.begin_call`."""
        return await actor_result(self._actor.begin_call.remote(self._sender, intent))

    async def end_call(self, call_id: int, state: CallState, **what: Unpack[CallEnd]) -> None:
        """See `Ledger.end_call`."""
        await actor_result(self._actor.end_call.remote(call_id, state, what))


class _SingleAttempts(Attempts):
    async def one(self, request: Request, key: str, upper: int | None, ticket: float) -> Delivery:
        """Send once, with counts of its own."""
        mine = copy.copy(self)
        mine.tally, mine.stop = Tally(), StopSignal()
        recorder = RateRecorder()
        try:
            result, cost = await mine._send(request, key, upper, recorder, ticket)
        except CallError as error:
            return Delivery(None, 0, mine.tally, recorder.calls, str(error))
        return Delivery(result, cost, mine.tally, recorder.calls)


class Sender:
    """The async actor that sends.

    Args:
        ledger: handle of the `LedgerActor`.
        number: of this sender.
        prices: by model.
        endpoints: all that will be asked.
    """

    def __init__(self, ledger: LedgerHandle, number: int, prices: Mapping[str, Price], endpoints: list[EndpointConfig]) -> None:
        # Of a ledger it begins and ends calls, and nothing else.
        self._ledger = cast(Ledger, SendersLedger(ledger, number))
        self._prices, self._endpoints = prices, endpoints
        self._attempts: _SingleAttempts | None = None

    async def open(self, keys: dict[str, str]) -> None:
        """Take the keys, by environment variable."""
        os.environ.update(keys)
        self._attempts = _SingleAttempts(self._ledger, self._prices, self._endpoints, Budget(), Tally(), StopSignal())

    async def send(self, request: Request, image: bytes, key: str, upper: int | None, ticket: float) -> Delivery:
        """Intent to the ledger, request, reply to the ledger; only then it returns.

        Raises:
            LedgerError: the intent or the reply could not be written.
        """
        assert self._attempts, "opened first"
        picture = replace(request.picture, read=lambda: image)
        return await self._attempts.one(replace(request, picture=picture), key, upper, ticket)


class SenderHandle(Protocol):
    """A `Sender`, from another process."""

    open: RemoteMethod[[dict[str, str]], None]
    send: RemoteMethod[[Request, RayReference[bytes], str, int | None, float], Delivery]


@dataclass
class _RunningSender:
    number: int
    actor: SenderHandle
    ready: RayReference[None]
    """Done when it has its keys."""


class RayAttempts(Attempts):
    """As `Attempts`; what is sent is sent by actors.

    Args:
        actor: handle of the `LedgerActor`.
        ledger: see `Attempts`, as all that follow.
        prices: by model.
        endpoints: all that will be asked.
        budget: what may be spent.
        tally: counts.
        stop: looked at before everything is sent.
    """

    # An actor writes and sends in one: what waits for the disk cannot be told from what is on its way.
    spare = 0.0

    def __init__(
        self,
        actor: LedgerHandle,
        ledger: Ledger,
        prices: Mapping[str, Price],
        endpoints: list[EndpointConfig],
        budget: Budget,
        tally: Tally,
        stop: StopSignal,
    ) -> None:
        super().__init__(ledger, prices, endpoints, budget, tally, stop)

        self._actor = actor
        self._settings = dict(prices), list(endpoints)
        self._keys_by_variable = {e.api_key_env: e.api_key() for e in endpoints}
        self._numbers = itertools.count(1)
        self._images: OrderedDict[str, RayReference[bytes]] = OrderedDict()
        self._together = sum(e.concurrency for e in endpoints)
        self._senders = [self._start_sender(node["NodeID"]) for node in cluster_nodes() if node["Alive"]]
        self._turn = itertools.count()

    def _start_sender(self, node: str | None) -> _RunningSender:
        """A sender on a node; without one, where Ray likes."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Of an actor that asks for no resources, Ray ignores a soft wish and takes any node. Where the node is gone by now, the
        # first call to its sender says so, and another one is started.
        where = NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD"
        number = next(self._numbers)
        handle = start_actor(
            Sender,
            *(self._actor, number, *self._settings),
            num_cpus=0,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=self._together,
            scheduling_strategy=where,
        )
        # Ray gives a handle without types.
        actor = cast(SenderHandle, handle)
        return _RunningSender(number, actor, actor.open.remote(self._keys_by_variable))

    async def close(self) -> None:
        """End the senders, which have nothing in flight, and close the connections."""
        for sender in self._senders:
            end_actor(sender.actor)
        await super().close()

    async def _send(self, request: Request, key: str, upper: int | None, limit: RateObserver, ticket: float) -> _Sent:
        """See `Attempts`."""
        # Each sender counts its own requests; the endpoint's `concurrency` is that of all of them.
        async with self._slots[request.endpoint.name]:
            if self.stop.is_requested():
                raise PassStoppedError
            if limit.paused:
                raise NotSentError
            return await self._sent(request, key, upper, limit, ticket)

    async def _sent(self, request: Request, key: str, upper: int | None, limit: RateObserver, ticket: float) -> _Sent:
        from ray.exceptions import ActorUnschedulableError, RayActorError, RayTaskError

        sender = self._senders[next(self._turn) % len(self._senders)]
        bare = replace(request, picture=replace(request.picture, read=_elsewhere))
        before = int(self.ledger.read(_NEWEST, (key,))[0][0])
        image = self._image(request)
        try:
            await asyncio.shield(asyncio.wrap_future(sender.ready.future()))
            delivery = await sender.actor.send.remote(bare, image, key, upper, ticket)
        except (RayActorError, ActorUnschedulableError) as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                msg = f"a sender cannot start on its node: {str(error).strip().splitlines()[-1]}"
                raise EngineError(msg) from None
            self._replace(sender)
            why = f"its sender was lost: {str(error).strip().splitlines()[0]}"[:300]
            return self._after_loss(await actor_result(self._actor.lose.remote(sender.number, key, before, why)), why)
        except RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        self._count(delivery.tally)
        for call in delivery.rate_limit_calls:
            call(limit)
        if delivery.result is None:
            raise self.stop.fail(delivery.fatal)
        return delivery.result, delivery.cost

    def _image(self, request: Request) -> RayReference[bytes]:
        import ray

        sha256 = request.picture.sha256
        if sha256 not in self._images:
            self._images[sha256] = ray.put(request.picture.read())
            if len(self._images) > _IMAGES:
                self._images.popitem(last=False)
        return self._images[sha256]

    def _replace(self, sender: _RunningSender) -> None:
        """Start another sender, once for each that is lost."""
        for place, current in enumerate(self._senders):
            if current is sender:
                # It may only be out of reach: then it must not go on.
                end_actor(sender.actor)
                self._senders[place] = self._start_sender(None)

    def _after_loss(self, trace: CallTrace | None, why: str) -> _Sent:
        """What the ledger knows of a call whose sender was lost."""
        if trace is None:
            return Retry(why, wait=0.0), 0
        self.tally.requests += 1
        match trace.state:
            case "reply" if trace.raw is not None:
                self.tally.cost_nano += trace.cost_nano or 0
                return trace.raw, trace.cost_nano
            case "unknown":
                self.tally.unknown += 1
                return Failure("unknown", why), None
            case _:
                # Rejected, or no connection came about: written down, with what it cost.
                self.tally.cost_nano += trace.cost_nano or 0
                return Retry(why), trace.cost_nano or 0

    def _count(self, more: Tally) -> None:
        for field in fields(Tally):
            setattr(self.tally, field.name, getattr(self.tally, field.name) + getattr(more, field.name))


def _elsewhere() -> bytes:
    msg = "the image of a request travels beside it"
    raise RuntimeError(msg)


@contextlib.contextmanager
def senders(store: Store) -> Iterator[MakeAttempts]:
    """See `Engine.paid`: lends the ledger to an actor, and sends through actors."""
    with ledger_in_actor(store) as actor:
        yield lambda *arguments: RayAttempts(actor, *arguments)
