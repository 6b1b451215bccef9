"""The `openai` client as we use it: its own retries off, the raw body out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data_prep.provider.config import EndpointConfig

if TYPE_CHECKING:
    import openai


async def post(client: openai.AsyncOpenAI, path: str, body: dict[str, Any]) -> tuple[bytes, Mapping[str, str]]:
    """The raw body of an answer, which the ledger keeps, and its headers. Typed objects would cost as much time as all the rest."""
    import httpx2

    response = await client.post(path, cast_to=httpx2.Response, body=body)
    return response.content, response.headers


def connect(endpoint: EndpointConfig) -> openai.AsyncOpenAI:
    """A client of one endpoint.

    Raises:
        ConfigError: its key is not set.
    """
    import openai

    try:
        # Twice as fast as the default transport for many small requests.
        http: Any = openai.DefaultAioHttpClient(timeout=endpoint.timeout)
    except RuntimeError:
        http = openai.DefaultAsyncHttpxClient(timeout=endpoint.timeout)
    return openai.AsyncOpenAI(
        api_key=endpoint.api_key(), base_url=endpoint.base_url, max_retries=0, timeout=endpoint.timeout, http_client=http
    )
