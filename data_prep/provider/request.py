"""One question to one model about one image: its cache key, its body, and the most that it can cost."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data_prep.provider.completion import cache_key
from data_prep.provider.config import EndpointConfig
from data_prep.provider.image_tokens import prompt_bound
from data_prep.provider.prices import Price
from data_prep.provider.reply_schema import Reply, strict_schema

_MEDIA = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """An image as a request carries it."""

    sha256: str
    extension: str
    read: Callable[[], bytes]
    width: int | None = None
    height: int | None = None
    """Pixels, where known: a bound on the cost of an image of unknown size is that of a very large one."""

    def data_uri(self) -> str:
        """`data:image/…;base64,…`"""
        return f"data:{_MEDIA[self.extension]};base64,{base64.b64encode(self.read()).decode()}"


@dataclass(frozen=True)
class Request:
    """What is asked of an endpoint."""

    endpoint: EndpointConfig
    picture: Picture
    prompt: str
    turns: tuple[dict[str, Any], ...]
    """Messages after the first: a reply off the schema, and what was wrong with it."""
    reply: type[Reply]

    @property
    def text(self) -> str:
        """All text of the request, as the ledger keeps it."""
        return json.dumps([self.prompt, list(self.turns)], ensure_ascii=False)

    @property
    def key(self) -> str:
        """Under which a reply is kept: the address of the endpoint is not part of it, nor whether a batch carried it."""
        schema = strict_schema(self.reply)
        return cache_key(self.picture.sha256, self.text, schema, self.endpoint.model, self.endpoint.parameters)

    @property
    def prompt_sha256(self) -> str:
        """Digest of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def body(self) -> dict[str, Any]:
        """The JSON body of a chat completion; reads the image."""
        schema = {"name": self.reply.__name__, "strict": True, "schema": strict_schema(self.reply)}
        return {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": self.content()}, *self.turns],
            "response_format": {"type": "json_schema", "json_schema": schema},
            **self.endpoint.parameters,
        }

    def content(self) -> Any:
        """The first message: the prompt and the image."""
        return [
            {"type": "text", "text": self.prompt},
            {"type": "image_url", "image_url": {"url": self.picture.data_uri()}},
        ]

    def intent(self, key: str, upper_nano: int | None) -> dict[str, Any]:
        """What the ledger writes down before the request is sent: arguments of `Ledger.begin_call`."""
        return {
            "cache_key": key,
            "image_sha256": self.picture.sha256,
            "prompt_sha256": self.prompt_sha256,
            "prompt": self.text,
            "annotator": self.endpoint.name,
            "model": self.endpoint.model,
            "started": time.time(),
            "upper_nano": upper_nano,
        }

    def upper_nano(self, price: Price) -> int | None:
        """The most that the request can cost at a price, in nano-dollars; None where nothing limits its output."""
        texts = len(self.text.encode()) + len(json.dumps(strict_schema(self.reply)))
        image = price.image.count(self.picture.width, self.picture.height)
        return price.bound(prompt_bound(texts, image), self.endpoint.max_output_tokens)
