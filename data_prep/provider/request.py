"""One question to one model about one image: its cache key, its body, and the most that it can cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

from data_prep.provider.base import Image, Question, ReplySchema, Turn
from data_prep.provider.config import EndpointConfig
from data_prep.provider.image_tokens import prompt_bound
from data_prep.provider.prices import Price
from data_prep.provider.registry import DEFAULT_PROVIDER
from data_prep.provider.reply_schema import Reply, strict_schema
from data_prep.store.ledger import CallIntent
from emo_lightning.core.image_metadata import without_metadata

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

    def image(self) -> Image:
        """Read now; place, time and camera are nothing that a provider is told, wherever the image is from."""
        return Image(_MEDIA[self.extension], without_metadata(self.read()))


NO_PICTURE = Picture("", "png", bytes)
"""Of a question in words alone."""


class LaterTurn(TypedDict):
    """A message after the first question; part of the cache key as it stands."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Request:
    """What is asked of an endpoint."""

    endpoint: EndpointConfig
    picture: Picture
    prompt: str
    turns: tuple[LaterTurn, ...]
    """Messages after the first: a reply off the schema, and what was wrong with it."""
    reply: type[Reply]

    @property
    def text(self) -> str:
        """All text of the request, as the ledger keeps it."""
        return json.dumps([self.prompt, list(self.turns)], ensure_ascii=False)

    @property
    def key(self) -> str:
        """Under which a reply is kept: who answers is part of it, whether a batch carried it is not."""
        return self.key_of(self.endpoint.party_name)

    def key_of(self, party: str | None) -> str:
        """As `key`, for another party; None: as keys were before parties were part of them (`party.kept`)."""
        e = self.endpoint
        return cache_key(self.picture.sha256, self.text, strict_schema(self.reply), e.model, e.parameters, e.provider, party)

    @property
    def prompt_sha256(self) -> str:
        """Digest of `text`."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def question(self) -> Question:
        """What a provider puts into its own words; reads the image."""
        schema = ReplySchema(self.reply.__name__, strict_schema(self.reply))
        return Question(self.endpoint.model, self._turns(), schema, self.endpoint.parameters)

    def _turns(self) -> tuple[Turn, ...]:
        """No turn is empty and roles alternate: many providers decline anything else."""
        turns = [self.first_turn()]
        for later in self.turns:
            if not later["content"].strip():
                continue
            if turns[-1].role == later["role"]:
                turns[-1] = Turn(turns[-1].role, (*turns[-1].parts, later["content"]))
            else:
                turns.append(Turn(later["role"], (later["content"],)))
        return tuple(turns)

    def first_turn(self) -> Turn:
        """The prompt and the image."""
        return Turn("user", (self.prompt, self.picture.image()))

    def intent(self, key: str, upper_nano: int | None, batch: int | None = None) -> CallIntent:
        """What the ledger writes down before the request is sent."""
        return {
            "cache_key": key,
            "image_sha256": self.picture.sha256,
            "prompt_sha256": self.prompt_sha256,
            "prompt": self.text,
            "annotator": self.endpoint.name,
            "model": self.endpoint.model,
            "party": self.endpoint.party_name,
            "started": time.time(),
            "upper_nano": upper_nano,
            "batch": batch,
        }

    def upper_nano(self, price: Price) -> int | None:
        """The most that the request can cost at a price, in nano-dollars; None where nothing limits its output."""
        texts = len(self.text.encode()) + len(json.dumps(strict_schema(self.reply)))
        image = price.image.count(self.picture.width, self.picture.height)
        return price.bound(prompt_bound(texts, image), self.endpoint.max_output_tokens)


def cache_key(
    image_sha256: str,
    prompt: str,
    schema: Mapping[str, object],
    model: str,
    parameters: Mapping[str, object],
    provider: str = DEFAULT_PROVIDER,
    party: str | None = None,
) -> str:
    """sha256 over all that decides a reply, and who gives it."""
    parts: list[object] = [image_sha256, prompt, schema, model, parameters]
    if provider != DEFAULT_PROVIDER:
        # The raw reply is read by the provider that wrote it: the same model by another API is another question.
        parts.append(provider)
    if party is not None:
        parts.append({"party": party})
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
