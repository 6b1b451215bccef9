"""The Batch API of a provider: upload, create, find again, poll, fetch results. Every call here is free; only a batch costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data_prep.provider.batch.records import Batch, Result
from data_prep.provider.completion import never_sent, root_cause, usage_of
from data_prep.provider.failures import CallError, Halt, Stopped
from data_prep.provider.outage import in_words
from data_prep.provider.prices import Price
from data_prep.provider.rate import retry_after
from data_prep.provider.statuses import is_fatal

if TYPE_CHECKING:
    import openai

TOKEN = "emo_batch"
"""Key of our token in a batch's metadata."""
ENDED = ("completed", "expired", "cancelled", "failed")
"""Statuses after which a batch changes no more."""
_PAUSE = 1.0
"""Seconds before an endpoint that does not answer is asked again, doubled up to a minute."""
_T = TypeVar("_T")


class NotCreated(Exception):
    """The provider declined to create a batch."""


class BatchService:
    """One account of one provider.

    Args:
        client: with retries off.
        base_url: for messages.
        halt: looked at while waiting.
        patience: seconds for which an endpoint that does not answer is asked again: a network may be away for a while.
    """

    def __init__(self, client: openai.AsyncOpenAI, base_url: str, halt: Halt, patience: float) -> None:
        self._client = client
        self._base_url = base_url
        self._halt = halt
        self.patience = patience

    async def upload(self, path: Path) -> str:
        """Upload a file of requests; returns its id. A file that was uploaded twice costs nothing."""

        async def send() -> str:
            with path.open("rb") as file:
                return (await self._client.files.create(file=(path.name, file), purpose="batch")).id

        return await self._free(send)

    async def create(self, file_id: str, token: str) -> Any:
        """Create a batch, once. None where it is not known whether it was.

        Raises:
            NotCreated: the provider declined (4xx).
        """
        import openai

        async def send() -> Any:
            try:
                return await self._client.batches.create(
                    input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={TOKEN: token}
                )
            except openai.APIStatusError as error:
                if _busy(error):
                    raise
                if error.status_code < 500:
                    said = error.response.content[:300].decode("utf-8", "replace")
                    msg = f"HTTP {error.status_code}: {said}"
                    raise NotCreated(msg) from None
                return None
            except openai.APIConnectionError as error:
                if never_sent(error):
                    raise
                return None

        return await self._free(send)

    async def find(self, batch: Batch, settle: float) -> Any:
        """The batch with our token, or None where the provider knows none.

        Asked again after `settle` seconds, so that a list that lags behind is not believed; no date of this machine plays a part,
        since its clock may be wrong or may have been set.
        """
        end = time.monotonic() + settle
        while True:
            last = time.monotonic() >= end
            if found := await self._free(lambda: self._list(batch)):
                return found
            if last:
                return None
            await self.sleep(max(0.0, end - time.monotonic()))

    async def _list(self, batch: Batch) -> Any:
        import openai

        assert batch.file_id is not None, "uploaded before"
        uploaded = 0
        with contextlib.suppress(openai.BadRequestError, openai.NotFoundError):
            uploaded = (await self._client.files.retrieve(batch.file_id)).created_at
        async for found in self._client.batches.list(limit=100):
            if (found.metadata or {}).get(TOKEN) == batch.token:
                return found
            if found.created_at < uploaded:
                # Newest first: the rest is older than the file of our request (if that is gone, all are looked at).
                return None
        return None

    async def poll(self, remote_id: str) -> Any:
        """The batch as it is now."""
        return await self._free(lambda: self._client.batches.retrieve(remote_id))

    async def cancel(self, remote_id: str) -> None:
        """Ask for its end; what was answered until then is paid for and kept."""
        await self._free(lambda: self._client.batches.cancel(remote_id))

    async def results(self, file_id: str | None, price: Price) -> tuple[list[Result], int]:
        """(what an output or error file says, lines that cannot be read: nobody knows whose reply they were); none without a file."""
        if file_id is None:
            return [], 0
        content = (await self._free(lambda: self._client.files.content(file_id))).content
        lines = [line for line in content.split(b"\n") if line.strip()]
        results = []
        for line in lines:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                results.append(result_of(json.loads(line), price))
        return results, len(lines) - len(results)

    async def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            Stopped: the pass was asked to stop.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._halt():
                raise Stopped
            await asyncio.sleep(min(left, 0.5))

    async def _free(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """A call that costs nothing, repeated while the endpoint cannot be reached or is busy."""
        import openai

        began, wait = time.monotonic(), _PAUSE
        while True:
            try:
                return await call()
            except openai.APIStatusError as error:
                status = error.status_code
                said = f"HTTP {status}: {error.response.content[:300].decode('utf-8', 'replace')}"
                if not _busy(error) and status < 500:
                    msg = f"{self._base_url}: the Batch API answers {said}"
                    raise CallError(msg) from None
                asked = retry_after(error.response.headers)
            except openai.APIConnectionError as error:
                said, asked = root_cause(error), None
            if (silent := time.monotonic() - began) > self.patience:
                msg = f"{self._base_url}: the Batch API has not answered for {in_words(silent)}, last: {said}"
                raise CallError(msg)
            await self.sleep(max(wait, asked or 0.0))
            wait = min(60.0, wait * 2)


def _busy(error: openai.APIStatusError) -> bool:
    """Whether it declines for now, and not because the account has no money."""
    return error.status_code == 429 and not is_fatal(429, error.response.content)


def result_of(line: dict[str, Any], price: Price) -> Result:
    """One line of an output or error file.

    Args:
        line: `custom_id`, and `response` (status_code, body) or `error`.
        price: of the Batch API.
    """
    key = str(line["custom_id"])
    response, error = line.get("response"), line.get("error")
    if not response:
        # Never executed: the batch expired or was cancelled first.
        return Result(key, "unsent", error=json.dumps(error)[:300])
    status, raw = int(response["status_code"]), json.dumps(response.get("body"), ensure_ascii=False).encode()
    if status != 200:
        return Result(key, "rejected", status, raw)
    usage = usage_of(raw)
    if usage is None:
        return Result(key, "reply", 200, raw, cost_nano=None)
    return Result(key, "reply", 200, raw, tokens=(usage[0], usage[2]), cost_nano=price.cost(*usage))
