"""Ray's actors as types: a handle is a protocol of `RemoteMethod`s, which say what they take and what comes of it."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import Future
from typing import ParamSpec, Protocol, TypedDict, TypeVar, cast

_P = ParamSpec("_P")
_T = TypeVar("_T")


class RayReference(Protocol[_T]):
    """What Ray gives for a result that is not there yet (`ray.ObjectRef`)."""

    def __await__(self) -> Generator[object, None, _T]:
        """Wait within asyncio."""
        ...

    def future(self) -> Future[_T]:
        """For `asyncio.wrap_future`."""
        ...


class RemoteMethod(Protocol[_P, _T]):
    """A method of an actor."""

    def remote(self, *arguments: _P.args, **options: _P.kwargs) -> RayReference[_T]:
        """Call it there."""
        ...


class RayNode(TypedDict):
    """Of `ray.nodes()`, what is looked at."""

    NodeID: str
    Alive: bool


def cluster_nodes() -> list[RayNode]:
    """The nodes of the cluster, also those that are gone."""
    import ray

    nodes: list[RayNode] = ray.nodes()  # type: ignore[no-untyped-call]  # Ray's own; it has no types
    return nodes


def start_actor(kind: type, *arguments: object, **options: object) -> object:
    """A new actor; the caller says as which protocol it is to be seen.

    Args:
        kind: its class.
        arguments: of its constructor; handles of other actors travel as they are.
        options: of Ray (`num_cpus`, `max_restarts`, `scheduling_strategy`, …).
    """
    import ray

    return ray.remote(kind).options(**options).remote(*arguments)


def end_actor(handle: object) -> None:
    """End an actor at once, whatever it does."""
    import ray
    from ray.actor import ActorHandle

    # As a protocol it has lost the type that Ray gave it.
    ray.kill(cast("ActorHandle[object]", handle))


def result_now(reference: RayReference[_T]) -> _T:
    """Wait for a result outside of asyncio."""
    import ray
    from ray import ObjectRef

    # As above.
    return ray.get(cast("ObjectRef[_T]", reference))
