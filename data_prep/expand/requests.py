"""Requests to an images endpoint, through the ledger like every paid call: intent before, reply before anything is done with it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.attempts import Again, Attempts, Failure, Halt, post
from data_prep.completion import cache_key, never_sent, root_cause
from data_prep.config import EndpointConfig, Price
from data_prep.expand.config import ImagePrice, ImagesConfig
from data_prep.money import Budget, Tally
from data_prep.rate import RateLimit
from data_prep.replies import Reply
from data_prep.request import Picture, Request
from data_prep.store import Store

PATH = "/images/generations"
NO_PICTURE = Picture("", "", bytes)
_GATEWAY_TIMEOUT = (504, 524)
"""Said by a gateway that does not know what became of the request: an image may have been made and billed."""
_KEPT = "sha256:"


@dataclass(frozen=True)
class ImageRequest(Request):
    """One image to be drawn from a text."""

    image_seed: int = 0

    @classmethod
    def of(cls, endpoint: ImagesConfig, prompt: str, image_seed: int) -> ImageRequest:
        """A request for one image."""
        return cls(endpoint, NO_PICTURE, prompt, (), Reply, image_seed)

    @property
    def text(self) -> str:
        """The whole body, as the ledger keeps it."""
        return json.dumps(self.body(), ensure_ascii=False, sort_keys=True)

    @property
    def key(self) -> str:
        """Under which the image is kept; the address of the endpoint is not part of it."""
        return cache_key("", self.text, {}, self.endpoint.model, {"path": PATH})

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        endpoint = self.endpoint
        assert isinstance(endpoint, ImagesConfig)
        body: dict[str, Any] = {"model": endpoint.model, "prompt": self.prompt, **endpoint.parameters}
        if endpoint.size is not None:
            body["size"] = endpoint.size
        if endpoint.seed_parameter is not None:
            body[endpoint.seed_parameter] = self.image_seed
        return body

    def upper_nano(self, price: Price) -> int | None:
        """The most that the image can cost."""
        assert isinstance(price, ImagePrice)
        return price.per_image


class ImageAttempts(Attempts):
    """As `Attempts`, for images: their bytes go to the store before the reply goes to the ledger."""

    def __init__(
        self, store: Store, prices: Mapping[str, Price], endpoint: ImagesConfig, budget: Budget, tally: Tally, halt: Halt
    ) -> None:
        super().__init__(store.ledger, prices, [endpoint], budget, tally, halt)
        self.store = store

    async def _send(
        self, request: Request, key: str, upper: int | None, limit: RateLimit, ticket: float
    ) -> tuple[bytes | Failure | Again, int | None]:
        import openai

        endpoint, ledger = request.endpoint, self.ledger
        call = await ledger.begin_call(
            cache_key=key,
            image_sha256="",
            prompt_sha256=request.prompt_sha256,
            prompt=request.text,
            annotator=endpoint.name,
            model=endpoint.model,
            started=time.time(),
            upper_nano=upper,
        )
        self.tally.requests += 1
        try:
            raw = await post(self.clients[endpoint.name], PATH, request.body())
        except openai.APIStatusError as error:
            status, said = error.status_code, error.response.content
            self.tally.statuses[status] += 1
            if status in _GATEWAY_TIMEOUT:
                return await self._unknown(call, f"HTTP {status}"), None
            await ledger.end_call(call, "rejected", ended=time.time(), status=status, raw=said, cost_nano=0)
            return self._judge(endpoint, status, said, error.response.headers, limit, ticket), 0
        except openai.APIConnectionError as error:
            cause = root_cause(error)
            if not never_sent(error):
                return await self._unknown(call, cause), None
            await ledger.end_call(call, "unsent", ended=time.time(), error=cause, cost_nano=0)
            return Again(cause, unsent=True), 0
        limit.replied()
        return await self._received(call, endpoint, raw)

    async def _unknown(self, call: int, cause: str) -> Failure:
        self.tally.unknown += 1
        await self.ledger.end_call(call, "unknown", ended=time.time(), error=cause)
        return Failure("unknown", cause)

    async def _received(self, call: int, endpoint: EndpointConfig, raw: bytes) -> tuple[bytes, int]:
        price = self.prices[endpoint.model]
        assert isinstance(price, ImagePrice)
        images, usage = images_of(raw), image_usage(raw)
        cost = price.charge(len(images), usage)
        # Megabytes of base64 do not belong into SQLite, and the bytes must be on disk before the row that names them.
        kept = await asyncio.to_thread(keep_images, self.store, raw)
        tokens = usage or ((0, 0) if not price.by_tokens else None)
        await self.ledger.end_call(call, "reply", ended=time.time(), status=200, raw=kept, tokens=tokens, cost_nano=cost)
        self.tally.cost_nano += cost
        self.tally.estimated += tokens is None
        return kept, cost


def images_of(raw: bytes) -> list[dict[str, Any]]:
    """Entries of a reply that carry an image (`b64_json`) or its address (`url`)."""
    try:
        data = json.loads(raw)["data"]
        return [entry for entry in data if isinstance(entry, dict) and (entry.get("b64_json") or entry.get("url"))]
    except (ValueError, KeyError, TypeError):
        return []


def image_usage(raw: bytes) -> tuple[int, int] | None:
    """(input, output) tokens of a reply, or None where it names none."""
    try:
        usage = json.loads(raw)["usage"]
        return int(usage.get("input_tokens") or usage.get("prompt_tokens") or 0), int(usage["output_tokens"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def keep_images(store: Store, raw: bytes) -> bytes:
    """Write the images of a reply to the store under their sha256, whatever they hold, and return the reply with
    `sha256:DIGEST.EXTENSION` in their place. What is no base64 stays as it is.
    """
    entries = [e for e in images_of(raw) if e.get("b64_json")]
    if not entries:
        return raw
    reply = json.loads(raw)
    for entry in reply["data"]:
        if not isinstance(entry, dict) or not isinstance(entry.get("b64_json"), str):
            continue
        try:
            data = base64.b64decode(entry["b64_json"].partition("base64,")[2] or entry["b64_json"], validate=True)
        except binascii.Error:
            continue
        entry["b64_json"] = _KEPT + keep_bytes(store, data)
    return json.dumps(reply, ensure_ascii=False).encode()


def keep_bytes(store: Store, data: bytes) -> str:
    """Write bytes to the store and to disk; returns `DIGEST.EXTENSION`."""
    extension = sniff(data)
    sha256 = store.add_image(data, extension)
    path = store.image_path(sha256, extension)
    for place in (path, path.parent):
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return f"{sha256}.{extension}"


def kept_image(entry: dict[str, Any]) -> tuple[str, str] | None:
    """(sha256, extension) of an entry that `keep_images` wrote, or None."""
    name = str(entry.get("b64_json") or "")
    if not name.startswith(_KEPT):
        return None
    sha256, _, extension = name.removeprefix(_KEPT).partition(".")
    return sha256, extension


def sniff(data: bytes) -> str:
    """Extension by the first bytes; `bin` for what is none of ours."""
    if data.startswith(b"\x89PNG\r\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "bin"
