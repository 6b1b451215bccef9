"""OpenAI's Batch API (`/files` and `/batches`)."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.provider.base import BatchLine, Provider, Question, RemoteBatch
from data_prep.provider.openai_client import unanswered
from data_prep.provider.received import body_text, count, foreign_json
from data_prep.provider.transport import HttpAnswer, HttpStatusError, without_key

if TYPE_CHECKING:
    import openai
    from openai.types import Batch

TOKEN = "emo_batch"
"""Key of our token in a batch's metadata."""


class OpenAIBatches:
    """See `BatchApi`.

    Args:
        client: with retries off.
        provider: writes the bodies.
        key: of the account, blotted out of all that comes back.
    """

    def __init__(self, client: openai.AsyncOpenAI, provider: Provider, key: str = "") -> None:
        self._client, self._provider, self._key = client, provider, key

    def line(self, question: Question, key: str) -> bytes:
        """See `BatchApi`."""
        url = f"/v1{self._provider.path(question.model)}"
        value = {"custom_id": key, "method": "POST", "url": url, "body": self._provider.body(question)}
        return json.dumps(value, ensure_ascii=False).encode() + b"\n"

    async def upload(self, path: Path) -> str:
        """See `BatchApi`. A file that was uploaded twice costs nothing."""
        with self._neutral_errors(), path.open("rb") as file:
            return (await self._client.files.create(file=(path.name, file), purpose="batch")).id

    async def create(self, file_id: str, token: str) -> RemoteBatch:
        """See `BatchApi`."""
        with self._neutral_errors():
            return self._remote(
                await self._client.batches.create(
                    input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={TOKEN: token}
                )
            )

    async def find(self, file_id: str, token: str) -> RemoteBatch | None:
        """See `BatchApi`."""
        import openai

        with self._neutral_errors():
            uploaded = 0
            with contextlib.suppress(openai.BadRequestError, openai.NotFoundError):
                uploaded = (await self._client.files.retrieve(file_id)).created_at
            async for found in self._client.batches.list(limit=100):
                if (found.metadata or {}).get(TOKEN) == token:
                    return self._remote(found)
                if found.created_at < uploaded:
                    # Newest first: the rest is older than the file of our request (if that is gone, all are looked at).
                    return None
        return None

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """See `BatchApi`."""
        with self._neutral_errors():
            return self._remote(await self._client.batches.retrieve(batch_id))

    async def cancel(self, batch_id: str) -> None:
        """See `BatchApi`."""
        with self._neutral_errors():
            await self._client.batches.cancel(batch_id)

    async def results(self, file_id: str) -> tuple[list[BatchLine], int]:
        """See `BatchApi`."""
        with self._neutral_errors():
            content = (await self._client.files.content(file_id)).content
        return read_results(without_key(content, self._key))

    def _remote(self, batch: Batch) -> RemoteBatch:
        found = _remote(batch)
        return replace(found, errors=tuple(without_key(e.encode(errors="replace"), self._key).decode() for e in found.errors))

    @contextlib.contextmanager
    def _neutral_errors(self) -> Iterator[None]:
        """The client's errors as `HttpStatusError` and `TransportError`."""
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            answer = error.response
            raw = without_key(answer.content, self._key)
            raise HttpStatusError(HttpAnswer(answer.status_code, raw, answer.headers)) from None
        except openai.APIConnectionError as error:
            raise unanswered(error, self._key) from None


def read_results(content: bytes) -> tuple[list[BatchLine], int]:
    """The lines of an output or error file, and how many cannot be read (nobody knows whose reply they were)."""
    lines = [line for line in content.split(b"\n") if line.strip()]
    results = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            results.append(_result(line))
    return results, len(lines) - len(results)


def _result(line: bytes) -> BatchLine:
    """`custom_id`, and `response` (status_code, body) or `error`."""
    found = foreign_json(body_text(line))
    if not isinstance(found, dict):
        raise TypeError(type(found))
    key, response = str(found["custom_id"]), found.get("response")
    if not response:
        # Never executed: the batch expired or was cancelled first.
        return BatchLine(key, error=json.dumps(found.get("error"))[:300])
    # Half a character stays the escape that it was.
    body = json.dumps(response.get("body"), ensure_ascii=False).encode(errors="backslashreplace")
    return BatchLine(key, count(response["status_code"]), body)


def _remote(batch: Batch) -> RemoteBatch:
    errors = tuple(f"{e.code}: {e.message}" for e in (batch.errors.data or [])) if batch.errors else ()
    counts = batch.request_counts
    # Some servers write an empty text where there is no file.
    output, failures = batch.output_file_id or None, batch.error_file_id or None
    return RemoteBatch(
        id=batch.id,
        status=batch.status,
        files=tuple(name for name in (output, failures) if name is not None),
        has_output=output is not None,
        completed=counts.completed if counts and isinstance(counts.completed, int) else None,
        errors=errors,
        too_large=any(error.startswith("token_limit_exceeded") for error in errors),
    )
