"""The `openai` client for the Batch API, with the limits of `transport`: bodies and times are bounded, a body is posted to one address."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from data_prep.provider.transport import MAX_ANSWER_BYTES, TransportError, causes, is_hopeless, root_cause, without_key
from emo_lightning.core.web.bodies import IDENTITY_ENCODING, BodyError, BodyLimit, BodyReader

if TYPE_CHECKING:
    import httpx2
    import openai

_FILE = BodyLimit(2**40, ratio=10.0)
"""Of a file with results, which goes to the disk; who writes it there has a limit of his own."""
_ANSWER = BodyLimit(MAX_ANSWER_BYTES)
_FILE_SECONDS = 3600.0
"""For a whole file."""
_WATCH = "emo_sent"
"""Key among a request's extensions: whether its head has left."""
_TIME = "emo_time"
"""Likewise: the limit of time for the head of its answer."""


def batch_client(base_url: str, api_key: str, timeout: float) -> openai.AsyncOpenAI:
    """A client whose own retries are off; it asks for no compression and follows redirects of requests without a body alone.

    Args:
        base_url: of the endpoint.
        api_key: of the account.
        timeout: seconds between two bytes, and for a whole answer that is no file.
    """
    import httpx2
    import openai

    class Client(openai.DefaultAsyncHttpxClient):
        # `Any`: the options of the base class.
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:  # noqa: ANN401
            """As the base class; the head of an answer must be whole in time, however often a byte of it comes."""
            try:
                async with asyncio.timeout(None) as limit:
                    request.extensions[_TIME] = limit
                    return await super().send(request, **options)
            except TimeoutError:
                msg = f"no whole answer within {timeout:g} s"
                raise httpx2.ReadTimeout(msg, request=request) from None

    async def watch(request: httpx2.Request) -> None:
        _watch(request, timeout)

    async def bound(response: httpx2.Response) -> None:
        _bound(response, timeout)

    client = Client(timeout=timeout, headers=IDENTITY_ENCODING, event_hooks={"request": [watch], "response": [bound]})
    return openai.AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0, timeout=timeout, http_client=client)


def unanswered(error: openai.APIConnectionError | httpx2.HTTPError, key: str) -> TransportError:
    """The client's error as ours.

    Args:
        error: of a client of `batch_client`, or of a body that it gives by parts.
        key: of the account, which is blotted out.
    """
    import httpx2

    sent = isinstance(error, httpx2.HTTPError) or bool(error.request.extensions.get(_WATCH, [True]))
    found = causes(error)
    large = next((cause for cause in found if isinstance(cause, BodyError)), None)
    problem = f"the answer cannot be read: {large}" if large else without_key(root_cause(error).encode(), key).decode()
    return TransportError(problem, sent=sent, hopeless=large is not None or (not sent and is_hopeless(error)))


def _watch(request: httpx2.Request, timeout: float) -> None:
    sent: list[bool] = []
    limit: asyncio.Timeout = request.extensions[_TIME]

    # `Any`: what the client tells of an event is of many types.
    async def see(event: str, details: dict[str, Any]) -> None:
        # A proxy is asked for a tunnel first: that is no request of ours.
        if event.endswith("send_request_headers.started") and details["request"].method != b"CONNECT":
            sent.append(True)
        # Sending a large file takes what it takes.
        if event.endswith("receive_response_headers.started"):
            limit.reschedule(asyncio.get_running_loop().time() + timeout)
        elif event.endswith("receive_response_headers.complete") and not limit.expired():
            limit.reschedule(None)

    request.extensions.update({"trace": see, _WATCH: sent})


def _bound(response: httpx2.Response, timeout: float) -> None:
    import httpx2

    request = response.request
    if request.method != "GET":
        # Without an address there is nothing that could be followed: a body goes where it was meant to go, or nowhere.
        response.headers.pop("location", None)
    # An error's body is in memory, whatever was asked for.
    is_file = request.url.path.endswith("/content") and response.status_code == 200
    reader = BodyReader(response.headers.pop("content-encoding", None), _FILE if is_file else _ANSWER)
    end = time.monotonic() + (_FILE_SECONDS if is_file else timeout)
    inner = response.stream

    class Bounded(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            assert isinstance(inner, httpx2.AsyncByteStream), "the client is asynchronous"
            async for chunk in inner:
                if time.monotonic() > end:
                    msg = "not complete in time"
                    raise httpx2.ReadTimeout(msg)
                try:
                    reader.feed(chunk)
                except BodyError as error:
                    raise httpx2.ReadError(str(error)) from error
                yield bytes(reader.body)
                reader.body.clear()

        async def aclose(self) -> None:
            assert isinstance(inner, httpx2.AsyncByteStream), "the client is asynchronous"
            await inner.aclose()

    response.stream = Bounded()
