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
import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from data_prep.engine.base import EngineError, EngineResult, ItemRow, MakeAttempts, Prepared, Step

if TYPE_CHECKING:
    from data_prep.store.store import Store


_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}
"""A cluster of this machine alone listens on loopback and wants a token. Ray has one switch for the first, which it made for other systems."""


@contextlib.contextmanager
def _of_its_own() -> Iterator[None]:
    """Environment in which Ray starts a cluster that nobody else reaches; what the user has set stays as it is.

    Keys travel through it, and whoever may send it tasks runs code here.
    """
    fresh = {**_OWN, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        fresh = {name: value for name, value in fresh.items() if not name.startswith("RAY_AUTH")}
    fresh = {name: value for name, value in fresh.items() if name not in os.environ}
    os.environ.update(fresh)
    try:
        yield
    finally:
        for name in fresh:
            os.environ.pop(name, None)


@contextlib.contextmanager
def connected(address: str | None, *, without_token: bool = False) -> Iterator[None]:
    """A connection to a cluster; one that this process has already is used, and left open.

    A cluster that is started here listens on loopback alone and wants a token; one of others has to want one.

    Args:
        address: `host:port` of its head, or `auto` for the one that this machine belongs to; None: the environment variable
            RAY_ADDRESS, and where that is not set a cluster of this machine alone.
        without_token: use a cluster that takes work from everybody who reaches it.

    Raises:
        EngineError: Ray is not installed, there is no such cluster, or it wants no token.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    # Read when Ray is imported.
    with _of_its_own() if address == "local" else contextlib.nullcontext(), _initialised(address, without_token):
        yield


@contextlib.contextmanager
def _initialised(address: str, without_token: bool) -> Iterator[None]:
    try:
        import ray
    except ModuleNotFoundError:
        msg = "--engine ray needs the package ray; install the extra: pip install 'emo-lightning[ray]'"
        raise EngineError(msg) from None
    if ray.is_initialized():
        yield
        return
    if address != "local" and not without_token and os.environ.get("RAY_AUTH_MODE") != "token":
        msg = (
            f"no Ray cluster at {address} is used without a token: API keys travel through it. Set RAY_AUTH_MODE=token here and on "
            "every node, with the head's ~/.ray/auth_token; --ray-without-token uses it as it is"
        )
        raise EngineError(msg)
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

    def map(self, store: Store, batches: Sequence[Sequence[ItemRow]], step: Step[Prepared]) -> Iterator[list[EngineResult]]:
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
