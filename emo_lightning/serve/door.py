"""Before anything of a request is looked at: who may ask, how much is read of it, and what every answer is headed by.

A request shows the secret as `Authorization: Bearer TOKEN`, as clients of OpenAI's API do, or as the first part of its path, as the page
does, whose every address is relative. Bodies are counted while they arrive.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse

from emo_lightning.core.web.local_pages import RejectedError, check_from_here, closed_headers, is_secret
from emo_lightning.serve.failures import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from emo_lightning.serve.measured import ServerMetrics
    from emo_lightning.serve.settings import Limits

OPEN_PATHS = ("/health",)
"""What may be asked without the secret."""
_HEADERS = [
    (name.lower().encode(), value.encode())
    for name, value in {
        **closed_headers("'self' data: blob:"),
        "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    }.items()
]
_DRAINED = 4
"""So many times the limit of a body is read and thrown away after an answer that came before its end, so that the client reads that answer
and does not find its connection broken."""


@dataclass(frozen=True)
class Gate:
    """Who may ask.

    Args:
        token: the secret; None: whoever reaches the port.
        names: of hosts that requests may name, beside addresses and `localhost`. A site that points a name of its own here finds it refused.
    """

    token: str | None
    names: frozenset[str] = frozenset()

    def is_ours(self, host: str) -> bool:
        """Whether a header `Host` is an address, or a name of this server."""
        name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() == "localhost" or name.lower() in self.names
        return True

    def path(self, scope: Scope, headers: Headers) -> str:
        """The path below the secret.

        Raises:
            ApiError: 421, 403 or 401, the request is not for us, or not from us, or knows no secret.
        """
        try:
            check_from_here(
                headers.getlist("host"),
                headers.get("origin"),
                headers.get("sec-fetch-site"),
                self.is_ours,
                "asked by an address, by localhost, or by a --name of its own,",
            )
        except RejectedError as error:
            raise ApiError(error.status, str(error), "not_from_here") from None
        path: str = scope["path"]
        if self.token is None or path in OPEN_PATHS:
            return path
        first, slash, rest = path.removeprefix("/").partition("/")
        if is_secret(first, self.token):
            return slash + rest
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_secret(given.strip(), self.token):
            return path
        msg = "no token, or another one: give the one that `emo serve` printed as api_key, or open the address that it printed"
        raise ApiError(HTTPStatus.UNAUTHORIZED, msg, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


class Door:
    """The outermost application.

    Args:
        app: what is behind it.
        gate: who may ask.
        limits: how much is read.
        measured: is told of every answer.
    """

    def __init__(self, app: ASGIApp, gate: Gate, limits: Limits, measured: ServerMetrics) -> None:
        self._app, self._gate, self.limits, self._measured = app, gate, limits, measured
        self.held = 0
        """Bytes of bodies that are being read or answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is none (start and end of the server) goes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, headers = time.monotonic(), Headers(scope=scope)
        exchange = Exchange(self, headers, receive, send)
        inner = dict(scope)
        try:
            try:
                inner["path"] = self._gate.path(scope, headers)
                exchange.check_length(headers)
            except ApiError as error:
                await error.response()(scope, exchange.receive, exchange.send)
            else:
                # `/TOKEN` alone: addresses of the page are relative to `/TOKEN/`.
                app = self._app if inner["path"] else RedirectResponse(f"{scope['path']}/")
                await app(inner, exchange.receive, exchange.send)
        finally:
            self.held -= exchange.received
            route = getattr(inner.get("route"), "path", "other")
            self._measured.answered(route, exchange.status, time.monotonic() - start)


class Exchange:
    """Request and answer of one request.

    Args:
        door: whose limits hold.
        headers: of the request.
        receive: of the server.
        send: of the server.
    """

    def __init__(self, door: Door, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        self._door, self._receive, self._send = door, receive, send
        self.received = 0
        """Bytes of the body so far."""
        self.status = 499
        """Of the answer; 499: there was nobody to give one to."""
        self._whole = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        # It sends its body when it is asked for it.
        self._waits = "expect" in headers

    def check_length(self, headers: Mapping[str, str]) -> None:
        """Refuse a body that is too large by its own account.

        Raises:
            ApiError: 413.
        """
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > self._door.limits.body:
            said = f"{length[:20]} bytes"
            raise self._too_large(said)

    def _too_large(self, what: str) -> ApiError:
        msg = f"the body has {what}; at most {self._door.limits.body:,} are read"
        return ApiError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, msg, "request_too_large")

    async def receive(self) -> Message:
        """Part of the body, or that the client is gone.

        Raises:
            ApiError: 413, 408 or 503: too large, too slow, or too many are being read.
        """
        if self._whole:
            return await self._receive()
        limits = self._door.limits
        try:
            async with asyncio.timeout(limits.silence):
                message = await self._receive()
        except TimeoutError:
            msg = f"nothing has come of the body for {limits.silence:g} s"
            raise ApiError(HTTPStatus.REQUEST_TIMEOUT, msg, "timeout") from None
        size = len(message.get("body", b""))
        self.received += size
        self._door.held += size
        self._whole = not message.get("more_body", False)
        if self.received > limits.body:
            found = f"more than {self.received - size:,} bytes"
            raise self._too_large(found)
        if self._door.held > limits.bodies:
            msg = f"busy: {self._door.held:,} bytes are being read; ask again in 2 s"
            raise ApiError(HTTPStatus.SERVICE_UNAVAILABLE, msg, "overloaded", retry_after=2)
        return message

    async def send(self, message: Message) -> None:
        """Part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [*message.get("headers", []), *_HEADERS]
            early = [] if self._whole else [(b"connection", b"close")]
            await self._send({**message, "headers": [*own, *early]})
        elif self._whole or message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            await self._drain()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _drain(self) -> None:
        """Read what still comes of a body that nobody wants."""
        if self._waits and not self.received:
            return
        left = _DRAINED * self._door.limits.body
        try:
            async with asyncio.timeout(self._door.limits.silence):
                more = True
                while more and left > 0:
                    message = await self._receive()
                    left -= len(message.get("body", b""))
                    more = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError:
            return
