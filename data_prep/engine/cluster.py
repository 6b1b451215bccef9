"""The engine of a Ray cluster.

The command runs where the store lies, which has to be a node of the cluster (the head, usually). Nothing else is shared: images travel
to the workers through Ray's object store, so no other node needs the store's disk. Every node needs the same version of this package
and, for steps with a model, the same model under the same name; a node that has another one ends the command.

Ray's telemetry and dashboard stay off, and its logs go where Ray puts them (`/tmp/ray`), never into a store.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from data_prep.engine.base import EngineError, MakeAttempts, Prepared, Result, Row, Step

if TYPE_CHECKING:
    from data_prep.store.store import Store


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster; one that this process has already is used, and left open.

    Args:
        address: `host:port` of its head, or `auto` for the one that this machine belongs to; None: the environment variable
            RAY_ADDRESS, and where that is not set a cluster of this machine alone.

    Raises:
        EngineError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError:
        msg = "--engine ray needs the package ray; install the extra: pip install 'emo-lightning[ray]'"
        raise EngineError(msg) from None
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    dashboard = False if address == "local" else None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (ConnectionError, RuntimeError, ValueError) as error:
        # Ray's own message names the address alone, also where the cluster answered that a token is missing.
        token = (
            ""
            if address == "local" or os.environ.get("RAY_AUTH_MODE")
            else "; if its head said that token authentication is enabled, set RAY_AUTH_MODE=token here and on every node, "
            "with the head's ~/.ray/auth_token"
        )
        msg = f"no Ray cluster at {address}: {str(error).strip().splitlines()[0]}{token}"
        raise EngineError(msg) from None
    try:
        yield
    finally:
        ray.shutdown()


class RayEngine:
    """The cluster that this process is connected to."""

    def map(self, store: Store, batches: Sequence[Sequence[Row]], step: Step[Prepared]) -> Iterator[list[Result]]:
        """See `Engine.map`.

        Raises:
            EngineError: a worker cannot load the step, or an image is missing or damaged.
        """
        if not batches:
            return iter(())
        from data_prep.engine.ray_map import results

        return results(store.root.resolve(), batches, step)

    def paid(self, store: Store) -> contextlib.AbstractContextManager[MakeAttempts]:
        """See `Engine.paid`: actors send, and an actor on this node owns the ledger meanwhile."""
        from data_prep.engine.ray_calls import senders

        return senders(store)
