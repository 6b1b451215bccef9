"""The configuration of an expansion (`configs/prep/expand.yaml`): how compositions are drawn, who writes queries, who draws images."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from data_prep.provider.budget import NANO_PER_DOLLAR
from data_prep.provider.config import EndpointConfig
from data_prep.provider.prices import NanoPerToken, Price, load_prices, nano_per_token
from data_prep.settings import ConfigError, beside, read_yaml, shipped
from emo_lightning.core.records import describe

_DEAREST = 10_000
"""USD for an image; what is above is a slip of the pen."""
_PLACES = {"background", "attribute", "subject", "emotion"}


class ImagesConfig(EndpointConfig):
    """An image model behind an OpenAI-compatible `/images/generations`.

    `parameters` are sent as they are (`response_format`, `quality`, `watermark`, …).
    """

    size: str | None = None
    """Sent as `size`; None leaves it to the endpoint."""
    seed_parameter: str | None = None
    """Name under which the endpoint takes a whole number as seed; None where it takes none."""
    licence: str | None = None
    """Written into every record: what the provider's terms allow."""


class ExpandConfig(BaseModel):
    """How a data set grows from its own triplets (paper section 3.1.1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: ImagesConfig
    """Image model that draws new combinations."""
    queries: EndpointConfig | None = None
    """Chat model that writes search queries; None: only `--no-llm`."""
    max_invalid: int = Field(default=2, ge=0)
    """How often a query is asked for again, with the error, where the reply did not follow the schema."""
    temperature: float = Field(default=1.0, gt=0)
    """Weight of an emotion = (its images)^(-1/temperature): 1 is inverse frequency, larger is nearer to even."""
    two_elements: float = Field(default=0.5, ge=0, le=1)
    """Share of compositions with two elements replaced, the others with one."""
    edges: Literal["any", "seen"] = "any"
    """seen: keep only compositions whose pairs of words, and of a word and the emotion, all occur in the data. any: keep all; the
    lineage names the new pairs."""
    prompt: str = "A photograph of a {attribute} {subject}; setting: {background}; mood: {emotion}. No text in the picture."
    """Prompt for one image; its places are background, attribute, subject and (optional) emotion."""
    source: str = Field(default="aigc", pattern=r"^[A-Za-z0-9_-]+$")
    """Source name of the images in the records."""
    prices: Path = Path("prices.yaml")
    """Price table; relative to this file."""

    @field_validator("prompt")
    @classmethod
    def _places(cls, prompt: str) -> str:
        try:
            found = {name for _, name, _, _ in Formatter().parse(prompt) if name is not None}
        except ValueError as error:
            msg = f"prompt {prompt!r}: {error}"
            raise ValueError(msg) from None
        if found - _PLACES or not {"background", "attribute", "subject"} <= found:
            msg = f"prompt has the places {sorted(found)}; needed: background, attribute, subject; allowed beside: emotion"
            raise ValueError(msg)
        return prompt

    def at(self, base_url: str) -> ExpandConfig:
        """The same with every endpoint at one address."""
        queries = self.queries and self.queries.moved(base_url)
        return self.model_copy(update={"images": self.images.moved(base_url), "queries": queries})

    def allowing_http(self) -> ExpandConfig:
        """The same; no endpoint needs https."""
        queries = self.queries and self.queries.allowing_http()
        return self.model_copy(update={"images": self.images.allowing_http(), "queries": queries})

    @classmethod
    def load(cls, path: str | Path) -> ExpandConfig:
        """Read a YAML file; `prices` is relative to that file; where none is there, ours is taken.

        Raises:
            ConfigError: no such file, not YAML, unknown or wrong key.
        """
        path = shipped(path)
        try:
            config = cls.model_validate(read_yaml(path))
        except ValidationError as error:
            msg = f"{path}: {describe(error)}"
            raise ConfigError(msg) from None
        return config.model_copy(update={"prices": beside(path.parent, config.prices)})


class ImagePrice(Price):
    """What one generated image costs, in nano-dollars: a fixed price, or tokens with a bound."""

    input: NanoPerToken = 0
    cached_input: NanoPerToken = 0
    output: NanoPerToken = 0
    per_image: int
    """The price; where tokens are billed, the most that one image can cost."""
    by_tokens: bool = False

    def charge(self, images: int, usage: tuple[int, int] | None) -> int:
        """Nano-dollars of a reply.

        Args:
            images: that it holds.
            usage: (input, output) tokens that it names.
        """
        if not self.by_tokens:
            return images * self.per_image
        # Tokens are billed; a reply that does not name them is counted at the most it can cost, so that a budget holds.
        return self.per_image if usage is None else self.cost(usage[0], 0, usage[1])


def image_price(path: str | Path, model: str) -> ImagePrice:
    """The price of a model from the key `images` of a price table.

    A row is a number (USD per image), or a mapping with `most` (USD per image) and `input`, `output` (USD per million tokens).

    Raises:
        ConfigError: the table or the row is missing or wrong, or the price of an image is finer than a nano-dollar.
    """
    path = Path(path)
    table = read_yaml(path).get("images")
    if not isinstance(table, dict) or model not in table:
        names = ", ".join(sorted(table)) if isinstance(table, dict) else "no key 'images'"
        msg = f"{path}: no price per image for {model!r}; there is: {names}"
        raise ConfigError(msg)
    row, where = table[model], f"{path}: images.{model}"
    if not isinstance(row, dict):
        return ImagePrice(per_image=_nano(row, where))
    if set(row) != {"most", "input", "output"}:
        msg = f"{where}: expected a number or the keys most, input, output; found {row!r}"
        raise ConfigError(msg)
    return ImagePrice(
        per_image=_nano(row["most"], f"{where}.most"),
        by_tokens=True,
        input=nano_per_token(row["input"], f"{where}.input"),
        output=nano_per_token(row["output"], f"{where}.output"),
    )


def _nano(dollars: object, where: str) -> int:
    try:
        usd = Decimal(str(dollars))
    except InvalidOperation:
        usd = Decimal("nan")
    if isinstance(dollars, bool) or not usd.is_finite():
        msg = f"{where}: {dollars!r} is not a number (USD)"
        raise ConfigError(msg)
    if not 0 <= usd <= _DEAREST or (usd * NANO_PER_DOLLAR) % 1:
        msg = f"{where}: {dollars} USD must be from 0 to {_DEAREST:,} and whole in nano-dollars per image"
        raise ConfigError(msg)
    return int(usd * NANO_PER_DOLLAR)


def text_prices(config: ExpandConfig) -> dict[str, Price]:
    """Prices by model of the chat models."""
    return load_prices(config.prices)
