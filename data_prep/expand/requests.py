"""Requests to an images endpoint, through the ledger like every paid call: intent before, reply before anything is done with it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from data_prep.expand.config import ImagePrice, ImagesConfig
from data_prep.expand.images_received import KEPT_KEY, billed_images, images_of, read_images
from data_prep.provider.attempts import Attempts
from data_prep.provider.base import Provider, Question, Turn
from data_prep.provider.budget import Budget, Tally
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import StopSignal
from data_prep.provider.json_bodies import json_objects
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.prices import Price
from data_prep.provider.received import BodyOutcome, Paid, body_text
from data_prep.provider.reply_schema import Reply
from data_prep.provider.request import NO_PICTURE, Request, cache_key
from data_prep.store.store import Store
from emo_lightning.core.images import MAX_IMAGE_BYTES

IMAGES_PATH = "/images/generations"
_KEPT = "sha256:"


class ImagesProvider(OpenAIProvider):
    """`POST {base_url}/images/generations`, as OpenAI serves it and others do."""

    most_bytes = 2 * MAX_IMAGE_BYTES
    """Base64 of an image, and what stands around it."""

    def path(self, model: str) -> str:
        """See `Provider`."""
        del model
        return IMAGES_PATH

    def body(self, question: Question) -> dict[str, object]:
        """See `Provider`."""
        return {"model": question.model, "prompt": question.turns[0].parts[0], **question.parameters}

    def read(self, raw: bytes) -> BodyOutcome:
        """See `Provider`."""
        return read_images(raw)


IMAGES_PROVIDER = ImagesProvider()


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
        return json.dumps(IMAGES_PROVIDER.body(self.question()), ensure_ascii=False, sort_keys=True)

    def key_of(self, party: str | None) -> str:
        """See `Request.key_of`."""
        return cache_key("", self.text, {}, self.endpoint.model, {"path": IMAGES_PATH}, party=party)

    def question(self) -> Question:
        """The text, and size and seed among the parameters."""
        endpoint = self.endpoint
        assert isinstance(endpoint, ImagesConfig)
        parameters = dict(endpoint.parameters)
        if endpoint.size is not None:
            parameters["size"] = endpoint.size
        if endpoint.seed_parameter is not None:
            parameters[endpoint.seed_parameter] = self.image_seed
        return Question(endpoint.model, (Turn("user", (self.prompt,)),), None, parameters)

    def upper_nano(self, price: Price) -> int | None:
        """The most that the image can cost."""
        assert isinstance(price, ImagePrice)
        return price.per_image


class ImageAttempts(Attempts):
    """As `Attempts`, for images: their bytes go to the store before the reply goes to the ledger."""

    def __init__(
        self, store: Store, prices: Mapping[str, Price], endpoint: ImagesConfig, budget: Budget, tally: Tally, stop: StopSignal
    ) -> None:
        super().__init__(store.ledger, prices, [endpoint], budget, tally, stop)
        self.store = store

    def provider(self, endpoint: EndpointConfig) -> Provider:
        """See `Attempts`."""
        del endpoint
        return IMAGES_PROVIDER

    async def received(
        self, endpoint: EndpointConfig, raw: bytes, body: Paid, upper: int | None, *, batch: bool = False
    ) -> tuple[bytes, int, tuple[int, int] | None]:
        """See `Attempts`."""
        del upper, batch
        price = self.prices[endpoint.model]
        assert isinstance(price, ImagePrice)
        usage = None if body.usage is None else (body.usage.prompt, body.usage.output)
        # Megabytes of base64 do not belong into SQLite, and the bytes must be on disk before the row that names them.
        kept = await asyncio.to_thread(keep_images, self.store, raw)
        return kept, price.charge(billed_images(raw, body), usage), usage or ((0, 0) if not price.by_tokens else None)


def keep_images(store: Store, raw: bytes) -> bytes:
    """Write the images of a reply to the store under their sha256, whatever they hold.

    Returns:
        The reply with `sha256:DIGEST.EXTENSION` in the place of each image, and the numbers of these entries under `KEPT_KEY`: a provider
        may write such a text as well, and it must lead nowhere. What is no base64 stays as it is.
    """
    objects = json_objects(body_text(raw))
    if not objects or not any("b64_json" in entry or "kept" in entry for entry in images_of(raw)):
        return raw
    entries: list[object] = []
    for one in objects:
        images = next((one[key] for key in ("data", "images") if isinstance(one.get(key), list) and one[key]), [one])
        assert isinstance(images, list)
        entries += images
    ours = []
    for number, entry in enumerate(entries):
        if isinstance(entry, dict) and isinstance(text := entry.get("b64_json"), str) and (data := _decoded(text)) is not None:
            entry["b64_json"] = _KEPT + keep_bytes(store, data)
            ours.append(number)
    usage = next((one["usage"] for one in objects if one.get("usage") is not None), None)
    reply = {key: value for key, value in objects[0].items() if key != "images"} | {
        "data": entries,
        "usage": usage,
        KEPT_KEY: ours,
    }
    # Half a character stays the escape that it was.
    return json.dumps(reply, ensure_ascii=False).encode(errors="backslashreplace")


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.partition("base64,")[2] or text, validate=True)
    except ValueError:
        return None


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


def sniff(data: bytes) -> str:
    """Extension by the first bytes; `bin` for what is none of ours."""
    if data.startswith(b"\x89PNG\r\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else "bin"
