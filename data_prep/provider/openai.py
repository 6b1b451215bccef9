"""OpenAI-compatible chat completions: OpenAI itself, Gemini's and others' compatible endpoints, vLLM and other servers."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from data_prep.provider.base import BatchApi, Image, Provider, Question, Turn
from data_prep.provider.openai_batches import OpenAIBatches
from data_prep.provider.openai_client import batch_client
from data_prep.provider.openai_parameters import rejected_parameter
from data_prep.provider.openai_received import answered_model, read_chat
from data_prep.provider.rate_headers import ReportedBucket
from data_prep.provider.received import BodyOutcome, body_text, foreign_json
from data_prep.provider.transport import MAX_ANSWER_BYTES, Connection, HttpConnection
from emo_lightning.core.web.waiting import MAX_WAIT_SECONDS

if TYPE_CHECKING:
    import openai

_MOST_UNITS = 1e15
"""Of a bucket; more is no limit, and its sums would not be exact."""
_CLOSED_CODES = ("unsupported_country_region_territory", "model_not_found", "account_deactivated")
"""With a 403: it is the account that is declined, not an image."""
_FATAL_CODES = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
"""The account has no money: said with a 429 or a 400, or under a 200."""
_LIMITS = ("max_completion_tokens", "max_tokens")
_LONGER = 2
"""Times the limit, for a reply that was cut by it."""
_ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Headers that say which part of an account pays, and the environment variables of the `openai` client that they come from."""
_KINDS = ("requests", "tokens")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class OpenAIProvider(Provider):
    """`POST {base_url}/chat/completions`, and the Batch API beside it."""

    name = "openai"

    def path(self, model: str) -> str:
        """See `Provider`."""
        del model
        return "/chat/completions"

    def headers(self, api_key: str) -> Mapping[str, str]:
        """See `Provider`."""
        return {"Authorization": f"Bearer {api_key}"}

    def body(self, question: Question) -> dict[str, object]:
        """See `Provider`."""
        body: dict[str, object] = {"model": question.model, "messages": [_message(turn) for turn in question.turns]}
        if question.schema is not None:
            schema = {"name": question.schema.name, "strict": True, "schema": question.schema.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | dict(question.parameters)

    def read(self, raw: bytes) -> BodyOutcome:
        """See `Provider`."""
        return read_chat(raw)

    def answered_model(self, raw: bytes) -> str | None:
        """See `Provider`."""
        return answered_model(raw)

    def max_output_tokens(self, parameters: Mapping[str, object]) -> int | None:
        """See `Provider`."""
        limits = [parameters[key] for key in _LIMITS if key in parameters]
        return min(map(_whole, limits)) * _whole(parameters.get("n", 1)) if limits else None

    def longer(self, parameters: Mapping[str, object]) -> Mapping[str, object] | None:
        """See `Provider`."""
        limits = {key: _LONGER * _whole(parameters[key]) for key in _LIMITS if key in parameters}
        return {**parameters, **limits} if limits else None

    def without(self, status: int, raw: bytes, parameters: Mapping[str, object]) -> tuple[str, str | None] | None:
        """See `Provider`: a limit goes by its other name, a parameter of sampling is left out."""
        return rejected_parameter(status, raw, parameters)

    def connect(self, base_url: str, api_key: str, timeout: float) -> Connection:
        """See `Provider`."""
        return OpenAIConnection(base_url, api_key, self.headers(api_key), timeout, self.most_bytes)

    def reported_buckets(self, headers: Mapping[str, str]) -> list[ReportedBucket]:
        """`x-ratelimit-{limit,remaining,reset}-{requests,tokens}`.

        Returns:
            The buckets that are named whole; what is no number or no duration (`1s`, `6m0s`, `120ms`) counts as not named.
        """
        found = []
        for kind in _KINDS:
            values = [headers.get(f"x-ratelimit-{part}-{kind}") for part in ("limit", "remaining", "reset")]
            try:
                limit, remaining, reset = float(values[0] or ""), float(values[1] or ""), _duration(values[2] or "")
            except ValueError:
                continue
            if 0 <= remaining <= limit <= _MOST_UNITS and reset <= MAX_WAIT_SECONDS:
                found.append(ReportedBucket(kind, limit, remaining, reset))
        return found

    def is_fatal(self, status: int, raw: bytes) -> bool:
        """See `Provider`."""
        code = _code(raw) if status == 403 else None
        return (
            super().is_fatal(status, raw) or code in _CLOSED_CODES or (status in (200, 400, 429) and _code(raw) in _FATAL_CODES)
        )

    def batches(self, connection: Connection) -> BatchApi | None:
        """See `Provider`."""
        if not isinstance(connection, OpenAIConnection):
            return None
        return OpenAIBatches(connection.client, self, connection.api_key)


class OpenAIConnection(HttpConnection):
    """Questions as plain JSON over HTTP; the `openai` client beside it, for the Batch API.

    Args:
        base_url, api_key: of the endpoint.
        headers: that carry the key (`Provider.headers`).
        timeout: seconds for a whole request.
        most: bytes of an answer.
    """

    def __init__(
        self, base_url: str, api_key: str, headers: Mapping[str, str], timeout: float, most: int = MAX_ANSWER_BYTES
    ) -> None:
        named = {header: os.environ.get(variable) for header, variable in _ACCOUNT.items()}
        every = {**headers, **{header: value for header, value in named.items() if value}}
        super().__init__(base_url, every, timeout, secret=api_key, most=most)
        self._base, self.api_key = base_url, api_key

    @cached_property
    def client(self) -> openai.AsyncOpenAI:
        """For batches."""
        return batch_client(self._base, self.api_key, self._timeout)

    async def close(self) -> None:
        """See `Connection`."""
        await super().close()
        if "client" in vars(self):
            await self.client.close()


def _message(turn: Turn) -> dict[str, object]:
    match turn.parts:
        case (str() as text,):
            return {"role": turn.role, "content": text}
        case parts:
            return {"role": turn.role, "content": [_part(part) for part in parts]}


def _part(part: str | Image) -> dict[str, object]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    uri = f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"
    return {"type": "image_url", "image_url": {"url": uri}}


def _whole(value: object) -> int:
    return int(value)  # type: ignore[call-overload, no-any-return]  # what is no number is a TypeError, which is caught


def _code(raw: bytes) -> str | None:
    """The code of an error; None where there is none. Like all readers of answers it raises nothing, whatever the bytes are."""
    try:
        found = foreign_json(body_text(raw))
    except ValueError:
        return None
    error = found.get("error") if isinstance(found, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) else None


def _duration(text: str) -> float:
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhd])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise ValueError(text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
