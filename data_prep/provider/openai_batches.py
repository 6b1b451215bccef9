"""OpenAI's Batch API (`/files` and `/batches`)."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from data_prep.provider.base import BatchLine, Provider, Question, RemoteBatch
from data_prep.provider.openai_client import unanswered
from data_prep.provider.received import body_excerpt, body_text, foreign_json, token_count
from data_prep.provider.transport import HttpAnswer, HttpStatusError, TransportError, without_key
from data_prep.store.private import private_file
from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import MAX_LINE_BYTES

if TYPE_CHECKING:
    import openai

TOKEN_KEY = "emo_batch"
"""Key of our token in a batch's metadata."""
MAX_RESULT_BYTES = 8 * 2**30
"""Bytes of a file with results that are read: 50,000 requests, the most of a batch, with 160 KiB each."""


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
            answer = await self._client.files.with_raw_response.create(file=(path.name, file), purpose="batch")
        return identifier(self._object(answer.content).get("id")) or ""

    async def create(self, file_id: str, token: str) -> RemoteBatch:
        """See `BatchApi`."""
        with self._neutral_errors():
            answer = await self._client.batches.with_raw_response.create(
                input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata={TOKEN_KEY: token}
            )
        return self._batch(self._object(answer.content))

    async def find(self, file_id: str, token: str) -> RemoteBatch | None:
        """See `BatchApi`."""
        import openai

        uploaded, after = 0.0, None
        with self._neutral_errors():
            with contextlib.suppress(openai.BadRequestError, openai.NotFoundError):
                answer = await self._client.files.with_raw_response.retrieve(file_id)
                uploaded = _seconds(self._object(answer.content)) or 0.0
            seen: set[str] = set()
            while True:
                page = self._client.batches.with_raw_response
                listed = self._object(
                    (await page.list(limit=100, after=after) if after else await page.list(limit=100)).content
                )
                rows = [row for row in _rows(listed.get("data")) if isinstance(row, dict)]
                for row in rows:
                    metadata = row.get("metadata")
                    if isinstance(metadata, dict) and metadata.get(TOKEN_KEY) == token:
                        return self._batch(row)
                    if (created := _seconds(row)) is not None and created < uploaded:
                        # Newest first: the rest is older than the file of our request (if that is gone, all are looked at).
                        return None
                after = identifier(rows[-1].get("id")) if rows else None
                if after is None or after in seen or listed.get("has_more") is False:
                    return None
                seen.add(after)

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """See `BatchApi`."""
        with self._neutral_errors():
            answer = await self._client.batches.with_raw_response.retrieve(batch_id)
        return self._batch(self._object(answer.content))

    async def cancel(self, batch_id: str) -> None:
        """See `BatchApi`."""
        with self._neutral_errors():
            await self._client.batches.with_raw_response.cancel(batch_id)

    async def download(self, file_id: str, path: Path) -> bool:
        """See `BatchApi`."""
        private_file(path)
        room = MAX_RESULT_BYTES
        with self._neutral_errors(), path.open("wb") as file:
            async with self._client.files.with_streaming_response.content(file_id) as answer:
                async for chunk in answer.iter_bytes():
                    file.write(chunk[:room])
                    room -= len(chunk)
                    if room < 0:
                        return False
        return True

    def results(self, path: Path) -> Iterator[BatchLine | None]:
        """See `BatchApi`."""
        with path.open("rb") as file:
            for line in read_batch_results(line and without_key(line, self._key) for line in capped_lines(file)):
                # Once more: JSON may write a character otherwise.
                yield line and replace(line, body=line.body and without_key(line.body, self._key))

    def _batch(self, found: Mapping[str, object]) -> RemoteBatch:
        batch = read_batch(found)
        return replace(batch, errors=tuple(without_key(error.encode(), self._key).decode() for error in batch.errors))

    def _object(self, raw: bytes) -> dict[str, object]:
        """The JSON object of an answer.

        Raises:
            TransportError: it is none, as the page of a proxy.
        """
        raw = without_key(raw, self._key)
        with contextlib.suppress(InputError):
            found = foreign_json(body_text(raw))
            if isinstance(found, dict):
                return found
        msg = f"the answer is no JSON object: {body_excerpt(raw)}"
        raise TransportError(msg, sent=True)

    @contextlib.contextmanager
    def _neutral_errors(self) -> Iterator[None]:
        """The client's errors as `HttpStatusError` and `TransportError`."""
        import httpx2
        import openai

        try:
            yield
        except openai.APIStatusError as error:
            answer = error.response
            raw = without_key(answer.content, self._key)
            raise HttpStatusError(HttpAnswer(answer.status_code, raw, answer.headers)) from None
        except (openai.APIConnectionError, httpx2.HTTPError) as error:
            raise unanswered(error, self._key) from None


def capped_lines(file: BinaryIO) -> Iterator[bytes | None]:
    """The lines of a file that are not blank; None for one that is longer than any reply."""
    while line := file.readline(MAX_LINE_BYTES):
        if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES:
            if line.strip():
                yield line
            continue
        yield None
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass


def read_batch_results(lines: Iterable[bytes | None]) -> Iterator[BatchLine | None]:
    """What the lines of an output or error file say; None for one that cannot be read (nobody knows whose reply it was)."""
    for line in lines:
        found = None
        if line is not None:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                found = _result(line)
        yield found


def _result(line: bytes) -> BatchLine:
    """`custom_id`, and `response` (status_code, body) or `error`."""
    found = foreign_json(body_text(line))
    if not isinstance(found, dict):
        raise TypeError(type(found))
    key, response = str(found["custom_id"]), found.get("response")
    if not response or not response.get("status_code"):
        if not found.get("error"):
            msg = "neither a response nor an error"
            raise ValueError(msg)
        # Never executed: the batch expired or was cancelled first.
        return BatchLine(key, error=json.dumps(found["error"])[:300])
    status = token_count(response["status_code"])
    if not 100 <= status < 600:
        msg = f"status_code {status}"
        raise ValueError(msg)
    # Half a character stays the escape that it was.
    return BatchLine(key, status, json.dumps(response.get("body"), ensure_ascii=False).encode(errors="backslashreplace"))


def identifier(value: object) -> str | None:
    """The id of a file or batch; None where there is none: some servers write an empty text, and what is no text names nothing."""
    return value if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][!-~]{0,199}", value) else None


def read_batch(found: Mapping[str, object]) -> RemoteBatch:
    """A batch as the API writes it. Whatever stands there, nothing is raised: what cannot be read is not said."""
    errors = tuple(_errors(found.get("errors")))
    counts = found.get("request_counts")
    counted = {name: _count(counts.get(name)) for name in ("total", "completed", "failed")} if isinstance(counts, dict) else {}
    return RemoteBatch(
        id=identifier(found.get("id")) or "",
        status={"canceled": "cancelled"}.get(status := body_excerpt(str(found.get("status")).lower())[:60], status),
        output=identifier(found.get("output_file_id")),
        failures=identifier(found.get("error_file_id")),
        errors=errors,
        too_large=any(error.startswith("token_limit_exceeded") for error in errors),
        **counted,
    )


def _errors(found: object) -> Iterator[str]:
    for row in _rows(found.get("data") if isinstance(found, dict) else found):
        yield body_excerpt(f"{row.get('code')}: {row.get('message')}" if isinstance(row, dict) else str(row))


def _rows(found: object) -> list[object]:
    return found if isinstance(found, list) else []


def _count(value: object) -> int | None:
    try:
        return max(0, token_count(value))
    except ValueError:
        return None


def _seconds(found: Mapping[str, object]) -> float | None:
    created = found.get("created_at")
    return float(created) if isinstance(created, int | float) and not isinstance(created, bool) else None
