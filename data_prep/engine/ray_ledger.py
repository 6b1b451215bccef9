"""One ledger for a cluster: an actor on the store's node owns the lock and the only connection that writes.

SQLite has one writer, and a network disk gives no locks that can be trusted with money. So everybody else tells this actor what to
write, and waits until it is on disk: callers of the same moment share one flush, as in one process. The driver reads the same file, which
is on its node; actors that send requests see nothing of it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, Unpack, cast

from data_prep.engine.ray_handles import RayReference, RemoteMethod, end_actor, result_now, start_actor
from data_prep.store.group_commit import LedgerError, Statement
from data_prep.store.ledger import CallEnd, CallIntent, CallState, Ledger
from emo_lightning.core.errors import UserError

if TYPE_CHECKING:
    from data_prep.store.store import Store

_T = TypeVar("_T")
_TOGETHER = 10_000
"""Messages that the actor works on at once: each of them only waits for the disk."""
_REGAIN = 60.0
"""Seconds in which the lock comes back."""


@dataclass(frozen=True)
class CallTrace:
    """What the ledger knows of a request whose sender was lost."""

    state: CallState
    raw: bytes | None = None
    cost_nano: int | None = None


class LedgerActor:
    """The writer.

    Args:
        root: the store, which nobody else has locked.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._store: Store | None = None
        self._lost: set[int] = set()

    async def open(self) -> None:
        """Take the lock and open the ledger; in the thread that uses it.

        Raises:
            StoreError: another program has the lock.
        """
        from data_prep.store.store import Store

        self._store = Store(self._root, write=True)

    async def close(self) -> None:
        """Finish what waits, and give the lock back."""
        if self._store:
            self._store.close()
            self._store = None

    @property
    def _ledger(self) -> Ledger:
        if self._store is None:
            msg = f"{self._root}: the ledger is closed"
            raise LedgerError(msg)
        return self._store.ledger

    async def write(self, statements: Sequence[Statement]) -> None:
        """See `Ledger.write`."""
        await self._ledger.write(*statements)

    async def begin_call(self, sender: int, intent: CallIntent) -> int:
        """See `Ledger.begin_call`; a sender that counts as lost may not send.

        Raises:
            LedgerError: it does.
        """
        if sender in self._lost:
            msg = f"sender {sender} was given up as lost"
            raise LedgerError(msg)
        return await self._ledger.begin_call(**intent)

    async def end_call(self, call: int, state: CallState, what: CallEnd) -> None:
        """See `Ledger.end_call`; also from a sender that counts as lost: a reply that was received is kept."""
        await self._ledger.end_call(call, state, **what)

    async def lose(self, sender: int, cache_key: str, after: int, why: str) -> CallTrace | None:
        """A sender was lost: it sends no more, and the call that it was working on is settled.

        Args:
            sender: its number.
            cache_key: of the request.
            after: the newest call of the request before this one.
            why: for the ledger.

        Returns:
            What became of the call: an intent becomes `unknown`. None where it was never written down, and so never sent.
        """
        self._lost.add(sender)
        query = "SELECT id, state, raw, cost_nano FROM calls WHERE cache_key = ? AND id > ? ORDER BY id DESC LIMIT 1"
        rows = self._ledger.read(query, (cache_key, after))
        if not rows:
            return None
        call, state, raw, cost = rows[0]
        if state == "intent":
            update = "UPDATE calls SET state = 'unknown', error = ? WHERE id = ? AND state = 'intent'"
            await self._ledger.write((update, (why, call)))
            return CallTrace("unknown")
        return CallTrace(state, raw, cost)


class LedgerHandle(Protocol):
    """A `LedgerActor`, from another process."""

    open: RemoteMethod[[], None]
    close: RemoteMethod[[], None]
    write: RemoteMethod[[Sequence[Statement]], None]
    begin_call: RemoteMethod[[int, CallIntent], int]
    end_call: RemoteMethod[[int, CallState, CallEnd], None]
    lose: RemoteMethod[[int, str, int, str], CallTrace | None]


class RemoteLedger(Ledger):
    """The driver's side: reads the file, has the actor write.

    Args:
        path: of the ledger.
        actor: handle of a `LedgerActor`.
    """

    def __init__(self, path: Path, actor: LedgerHandle) -> None:
        super().__init__(path, write=False)
        self._actor = actor

    async def write(self, *statements: Statement) -> None:
        """See `Ledger.write`."""
        await actor_result(self._actor.write.remote(statements))

    def write_now(self, *statements: Statement) -> None:
        """See `Ledger.write_now`."""
        actor_result_now(self._actor.write.remote(statements))

    async def begin_call(self, **intent: Unpack[CallIntent]) -> int:
        """See `Ledger.begin_call`; the actor gives the number, since senders begin calls too."""
        return await actor_result(self._actor.begin_call.remote(DRIVER_NUMBER, intent))


DRIVER_NUMBER = 0
"""The driver's number among the senders."""


async def actor_result(reference: Awaitable[_T]) -> _T:
    """What an actor answers; its errors are raised as they were there.

    Raises:
        UserError: as raised there.
        LedgerError: the ledger's actor is gone.
    """
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return await reference
    except (RayTaskError, RayActorError) as error:
        raise _original_error(error) from None


def actor_result_now(reference: RayReference[_T]) -> _T:
    """As `actor_result`, outside of asyncio."""
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return result_now(reference)
    except (RayTaskError, RayActorError) as error:
        raise _original_error(error) from None


def _original_error(error: Exception) -> Exception:
    from ray.exceptions import RayActorError

    if isinstance(error, RayActorError):
        return LedgerError(
            "the process that writes the ledger has ended; what was written is on disk: run the same command again"
        )
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, UserError) else error


@contextlib.contextmanager
def ledger_in_actor(store: Store) -> Iterator[LedgerHandle]:
    """Have an actor on this node write the ledger of a store; `store.ledger` is a `RemoteLedger` meanwhile. Yields its handle.

    Args:
        store: opened for writing; its lock moves to the actor and back, so that it is held for as long as anybody writes, even
            where this process dies first.

    Raises:
        StoreError: another program took the lock in between.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    path = store.ledger.path
    store.ledger.close()
    store.unlock()
    options = {"num_cpus": 0, "max_restarts": 0, "scheduling_strategy": here, "max_concurrency": _TOGETHER}
    # Ray gives a handle without types.
    actor = cast(LedgerHandle, start_actor(LedgerActor, str(store.root.resolve()), **options))
    try:
        actor_result_now(actor.open.remote())
        store.ledger = RemoteLedger(path, actor)
        yield actor
    finally:
        if isinstance(store.ledger, RemoteLedger):
            store.ledger.close()
        # Where it has ended by itself, nothing waits and its lock is gone.
        with contextlib.suppress(LedgerError):
            actor_result_now(actor.close.remote())
        end_actor(actor)
        _take_lock_back(store)
        store.ledger = Ledger(path, write=True)


def _take_lock_back(store: Store) -> None:
    """Take the lock back; a process that is being ended may hold it for a moment."""
    from data_prep.store.store import StoreError

    end = time.monotonic() + _REGAIN
    while True:
        try:
            store.lock()
        except StoreError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
        else:
            return
