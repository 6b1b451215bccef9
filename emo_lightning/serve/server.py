"""A server that runs until it is asked to end, and answers before it does what was asked until then."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    from emo_lightning.serve.door import Door

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_BACKLOG = 1024


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound.

    Args:
        host: address or name of an interface.
        port: 0 takes a free one.

    Raises:
        InputError: there is none such, or it is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        msg = f"--host {host}: {error}"
        raise InputError(msg) from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        msg = f"--host {host} --port {port}: {error.strerror}; port 0 takes a free one"
        raise InputError(msg) from None
    return bound


def address_of(bound: socket.socket) -> str:
    """`HOST:PORT` of a socket, as a browser on this machine asks for it."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Server(uvicorn.Server):
    """One application on one socket.

    Args:
        app: of `app.make_app`.
        grace: seconds that requests have to be answered in, once it is asked to end.
        ending: is told when it is.
    """

    def __init__(self, app: Door, grace: float, ending: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                # Paths hold the secret; errors go to the terminal as Python's own logging sends them.
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                http="h11",
                timeout_graceful_shutdown=round(grace),
            )
        )
        self._ending = ending
        self.ended_by: signal.Signals | None = None
        """The first signal that asked it to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that has been answered is not raised again: the command ends by its exit code."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End once everything is answered; a second Ctrl-C does not wait for that."""
        self.ended_by = self.ended_by or signal.Signals(sig)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests, and answer those that are there."""
        self._ending()
        await super().shutdown(sockets)
