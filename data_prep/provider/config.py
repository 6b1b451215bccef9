"""How a paid endpoint is reached and asked: the parts of a configuration that say so."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from data_prep.provider.registry import DEFAULT_PROVIDER, PROVIDERS
from data_prep.settings import ConfigError, Settings


def checked_address(url: str) -> str:
    """The address of an API, if it is one.

    Raises:
        ConfigError: neither http nor https, no host, no port that there is, a blank in it, a user name or password (it would stand in every
            message), or a query (the path of a question comes after it).
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", url)
        secret = "@" in parts.netloc or "?" in url or "#" in url
    # A port that is no number or too large, a bracket that is not closed.
    except ValueError:
        good, secret = False, bool(set("@?#") & set(url))
    if secret:
        msg = "base_url: expected no user, password, query or fragment in it; keys come from the variable of `api_key_env`"
        raise ConfigError(msg)
    if not good:
        msg = f"base_url {url[:200]!r}: expected an address, e.g. https://api.openai.com/v1 or http://127.0.0.1:8000/v1"
        raise ConfigError(msg)
    return url


def address_name(base_url: str) -> str:
    """An address as a name that stays the same however it is written: host, port where it is not the usual one, and path.

    Args:
        base_url: that `checked_address` has seen; what is none is its own name.
    """
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError:
        return base_url
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host.rstrip(".")
    return f"{host}{'' if port in (None, usual) else f':{port}'}{parts.path.rstrip('/')}"


def is_loopback(base_url: str) -> bool:
    """Whether an address is this machine's own: what goes there crosses no network."""
    host = (urlsplit(base_url).hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def shown_variable(name: str) -> str:
    """The name of an environment variable for a message, unless it may be a key that was pasted in its place."""
    usual = re.fullmatch(r"[A-Z][A-Z0-9]{0,15}(_[A-Z0-9]{1,15})*", name)
    return name if usual and len(name) <= 60 else "(name not shown: it may be the key itself)"


class EndpointConfig(Settings):
    """One model behind a paid endpoint."""

    name: str
    """Name in records and reports."""
    provider: str = DEFAULT_PROVIDER
    """The API that the endpoint speaks, one of `registry.PROVIDERS`: `openai` for OpenAI and whatever is compatible with it."""
    model: str
    """Name sent to the endpoint, and the key in the price table."""
    base_url: str
    """Address of the API; the provider adds the path of a question."""
    party: str | None = Field(default=None, min_length=1, max_length=200)
    """Who answers, as a name that outlives an address: replies are kept under it. None: the address. Two servers are two
    parties, also with one model name."""
    api_key_env: str
    """Environment variable that holds the key; the key itself is never written anywhere."""
    allow_http: bool = False
    """Whether key and images may go unencrypted to a `base_url` with http that is not this machine."""
    parameters: dict[str, object] = Field(default={})
    """Sent with every request (`temperature`, `max_completion_tokens`, …); part of the cache key."""
    concurrency: int = Field(default=8, ge=1)
    """Requests on their way at the same time."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request."""
    max_attempts: int = Field(default=6, ge=1)
    """Requests for one reply when the endpoint answers 429 or 5xx, or cannot be connected; none counts while it answers nobody."""
    max_outage: float = Field(default=6 * 3600.0, ge=0)
    """Seconds for which an endpoint that answers nobody (no connection, 5xx, 429, no answer in time) is waited for, and the longest
    pause (Retry-After) that is obeyed; then the pass ends."""
    batch: bool = False
    """With `--batch`: ask through the Batch API (needs a `batch` price, and an endpoint that serves /files and /batches)."""

    @field_validator("provider")
    @classmethod
    def _known(cls, provider: str) -> str:
        if provider not in PROVIDERS:
            msg = f"unknown provider {provider!r}; allowed: {', '.join(PROVIDERS)}"
            raise ValueError(msg)
        return provider

    @field_validator("base_url")
    @classmethod
    def _address(cls, base_url: str) -> str:
        return checked_address(base_url)

    @field_validator("api_key_env", mode="before")
    @classmethod
    def _a_name(cls, name: object) -> object:
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,199}", name):
            # What stands there is not repeated: it may be the key.
            msg = "expected the name of an environment variable, e.g. OPENAI_API_KEY; the key itself belongs into that variable"
            raise ValueError(msg)
        return name

    @field_validator("parameters")
    @classmethod
    def _can_be_sent(cls, parameters: dict[str, object]) -> dict[str, object]:
        try:
            json.dumps(parameters, allow_nan=False)
        except (TypeError, ValueError) as error:
            msg = f"cannot be sent as JSON: {error}"
            raise ValueError(msg) from None
        return parameters

    @model_validator(mode="after")
    def _limits_are_numbers(self) -> Self:
        try:
            PROVIDERS[self.provider].max_output_tokens(self.parameters)
        except (TypeError, ValueError, OverflowError) as error:
            msg = f"parameters {self.parameters}: a limit of tokens, or n, is no whole number: {error}"
            raise ValueError(msg) from None
        return self

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens of a reply, thinking included; None where `parameters` set no limit."""
        return PROVIDERS[self.provider].max_output_tokens(self.parameters)

    @property
    def party_name(self) -> str:
        """Who answers, with `model`: part of what a reply is kept under."""
        return self.party or address_name(self.base_url)

    def moved(self, base_url: str, api_key_env: str | None = None) -> Self:
        """The same endpoint at another address, for a simulated server or a gateway: it stays the party that it was."""
        move = {"party": self.party_name, "base_url": checked_address(base_url), "api_key_env": api_key_env or self.api_key_env}
        return self.model_copy(update=move)

    def allowing_http(self) -> Self:
        """The same endpoint, whose key and images may cross a network unencrypted."""
        return self.model_copy(update={"allow_http": True})

    def api_key(self) -> str:
        """The key from the environment.

        Raises:
            ConfigError: the variable is not set, or the key would go over a network unencrypted.
        """
        key, variable = os.environ.get(self.api_key_env), shown_variable(self.api_key_env)
        if not key:
            msg = f"{self.name}: environment variable {variable} (api_key_env) is not set"
            raise ConfigError(msg)
        if not key.isprintable() or not key.isascii() or " " in key:
            msg = f"{self.name}: environment variable {variable} holds white space or other characters of no key"
            raise ConfigError(msg)
        if not self.allow_http and not self.base_url.startswith("https://") and not is_loopback(self.base_url):
            msg = (
                f"{self.name}: base_url {self.base_url} would carry the key and the images unencrypted over a network; "
                "use https, or set `allow_http: true` for this endpoint (`--allow-http` for all of a command)"
            )
            raise ConfigError(msg)
        return key


class BatchConfig(Settings):
    """Batch mode (`emo prep annotate --batch`)."""

    poll_seconds: float = Field(default=30.0, gt=0)
    """Between two looks at open batches."""
    settle_seconds: float = Field(default=60.0, ge=0)
    """How long after a creation of unknown outcome the provider's list of batches is believed."""
    max_requests: int = Field(default=50_000, ge=1, le=50_000)
    """Requests of one batch; the provider's limit. An account with a small queue wants fewer."""
    max_bytes: int = Field(default=190_000_000, ge=1, le=200_000_000)
    """Of one file; the provider's limit is 200 MB."""
