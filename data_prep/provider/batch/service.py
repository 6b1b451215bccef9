"""A provider's Batch API as it is used here: asked again while it does not answer, and a batch is never created twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TypeVar

from data_prep.provider.base import BatchApi, BatchLine, Provider, RemoteBatch
from data_prep.provider.batch.records import Batch, BatchResult
from data_prep.provider.failures import CallError, PassStoppedError, StopSignal
from data_prep.provider.interrupt import unless_stopped
from data_prep.provider.outage import in_words
from data_prep.provider.prices import Price
from data_prep.provider.received import NotFromApi, TransientError
from data_prep.provider.transport import HttpStatusError, TransportError
from emo_lightning.core.web.waiting import retry_after

_PAUSE = 1.0
"""Seconds before an endpoint that does not answer is asked again, doubled up to a minute."""
_T = TypeVar("_T")


class BatchNotCreatedError(Exception):
    """The provider declined to create a batch."""


class GoneError(CallError):
    """The provider knows no such batch or file (any more)."""


class BatchService:
    """One account of one provider. Every call here is free; only a batch costs.

    Args:
        api: of the account.
        provider: reads its replies.
        base_url: for messages.
        stop: looked at while waiting.
        patience: seconds for which an endpoint that does not answer is asked again: a network may be away for a while.
    """

    def __init__(self, api: BatchApi, provider: Provider, base_url: str, stop: StopSignal, patience: float) -> None:
        self.api = api
        self._provider = provider
        self.base_url = base_url
        self._stop = stop
        self.patience = patience

    async def upload(self, path: Path) -> str:
        """Upload a file of requests; returns its id.

        Raises:
            CallError: it cannot be uploaded, or is given no id.
        """
        file_id = await self._free(lambda: self.api.upload(path))
        if not file_id:
            msg = f"{self.base_url}: the Batch API gives the uploaded file no id; no batch was made of it, nothing is paid"
            raise CallError(msg)
        return file_id

    async def create(self, file_id: str, token: str) -> RemoteBatch | None:
        """Create a batch, once. None where it is not known whether it was.

        Raises:
            BatchNotCreatedError: the provider declined (4xx).
        """

        async def send() -> RemoteBatch | None:
            try:
                return await self.api.create(file_id, token)
            except HttpStatusError as error:
                if self._busy(error):
                    raise
                if error.answer.status < 500:
                    raise BatchNotCreatedError(str(error)) from None
                return None
            except TransportError as error:
                if not error.sent:
                    raise
                return None

        return await self._free(send)

    async def find(self, batch: Batch, settle: float) -> RemoteBatch | None:
        """The batch with our token, or None where the provider knows none.

        Asked again after `settle` seconds, so that a list that lags behind is not believed; no date of this machine plays a part,
        since its clock may be wrong or may have been set.
        """
        file_id = batch.file_id
        assert file_id is not None, "uploaded before"
        end = time.monotonic() + settle
        while True:
            last = time.monotonic() >= end
            if found := await self._free(lambda: self.api.find(file_id, batch.token)):
                return found
            if last:
                return None
            await self.sleep(max(0.0, end - time.monotonic()))

    async def poll(self, remote_id: str) -> RemoteBatch:
        """The batch as it is now."""
        return await self._free(lambda: self.api.retrieve(remote_id), remote_id)

    async def cancel(self, remote_id: str) -> None:
        """Ask for its end; what was answered until then is paid for and kept. One that has ended, or is gone, cannot be cancelled."""

        async def send() -> None:
            try:
                await self.api.cancel(remote_id)
            except HttpStatusError as error:
                if error.answer.status not in (400, 404, 409, 410, 422):
                    raise

        await self._free(send)

    async def download(self, file_id: str, path: Path) -> bool:
        """Write a file of results to `path`, begun again where it breaks off; whether that is all of it.

        Raises:
            GoneError: the provider knows no such file (any more), or nobody can read what it sends.
            PassStoppedError: the pass was asked to stop; the file is there for another one.
        """

        async def fetch() -> bool:
            try:
                return await unless_stopped(self._stop, self.api.download(file_id, path))
            except TransportError as error:
                if error.hopeless and error.sent:
                    msg = f"{self.base_url}: file {file_id}: {error}"
                    raise GoneError(msg) from None
                raise
            except OSError as error:
                msg = f"{path}: cannot be written: {error.strerror or error}"
                raise CallError(msg) from None

        return await self._free(fetch, file_id)

    def results(self, path: Path, price: Price) -> Iterator[BatchResult | None]:
        """What a file of results says, line by line; None for a line that cannot be read: nobody knows whose reply it was.

        Args:
            path: where it was written to.
            price: of the Batch API.
        """
        for line in self.api.results(path):
            yield None if line is None else self._result(line, price)

    def _result(self, line: BatchLine, price: Price) -> BatchResult:
        if line.status is None:
            return BatchResult(line.key, "unsent", error=line.error)
        if line.status != 200:
            return BatchResult(line.key, "rejected", line.status, line.body)
        body = self._provider.read(line.body or b"")
        if isinstance(body, TransientError | NotFromApi):
            return BatchResult(line.key, "rejected", 200, line.body, error=body.why)
        model = self._provider.answered_model(line.body or b"")
        if body.usage is None:
            return BatchResult(line.key, "reply", 200, line.body, cost_nano=None, answered_model=model)
        usage = body.usage
        cost = price.cost(usage.prompt, usage.cached, usage.output)
        return BatchResult(
            line.key, "reply", 200, line.body, tokens=(usage.prompt, usage.output), cost_nano=cost, answered_model=model
        )

    async def sleep(self, seconds: float) -> None:
        """Wait.

        Raises:
            PassStoppedError: the pass was asked to stop.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self._stop.is_requested():
                raise PassStoppedError
            await asyncio.sleep(min(left, 0.5))

    async def _free(self, call: Callable[[], Awaitable[_T]], named: str | None = None) -> _T:
        """A call that costs nothing, repeated while the endpoint cannot be reached or is busy.

        Args:
            call: sends it.
            named: id of what is asked for.

        Raises:
            GoneError: the provider knows no such id (any more).
            CallError: any other that no later try can mend.
        """
        began, wait = time.monotonic(), _PAUSE
        while True:
            try:
                return await call()
            except HttpStatusError as error:
                said = str(error)
                if not self._busy(error) and error.answer.status < 500:
                    msg = f"{self.base_url}: the Batch API answers {said}"
                    raise (GoneError if named is not None and _is_gone(error, named) else CallError)(msg) from None
                asked = retry_after(error.answer.headers)
            except TransportError as error:
                if error.hopeless:
                    msg = f"{self.base_url}: the Batch API cannot be used: {error}"
                    raise CallError(msg) from None
                said, asked = str(error), None
            if (silent := time.monotonic() - began) > self.patience:
                msg = f"{self.base_url}: the Batch API has not answered for {in_words(silent)}, last: {said}"
                raise CallError(msg)
            await self.sleep(max(wait, asked or 0.0))
            wait = min(60.0, wait * 2)

    def _busy(self, error: HttpStatusError) -> bool:
        """Whether it declines for now, and not because the account has no money."""
        return error.answer.status == 429 and not self._provider.is_fatal(429, error.answer.body)


def _is_gone(error: HttpStatusError, named: str) -> bool:
    """Whether an answer says that there is no such id.

    Not 401 and 403: the key is another one, and a batch is not lost by that. A 400 may speak of the key, too, unless it names the id.
    """
    status = error.answer.status
    return status in (404, 410) or (status in (400, 422) and named.encode() in error.answer.body)
