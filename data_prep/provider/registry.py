"""The providers that an endpoint may name (key `provider`)."""

from __future__ import annotations

from data_prep.provider.base import Provider
from data_prep.provider.openai import OpenAIProvider

PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (OpenAIProvider(),)}
"""By name. A new one is added to the tuple."""
DEFAULT_PROVIDER = OpenAIProvider.name
"""Of an endpoint that names none. Cache keys of its questions do not name the provider: they are older than this key."""
