"""What models cost: the price table, in nano-dollars per token. What a reply costs is a whole number of them, rounded up."""

from __future__ import annotations

import math
from decimal import Decimal, InvalidOperation
from pathlib import Path

from pydantic import ValidationError

from data_prep.provider.image_tokens import ImageTokens
from data_prep.provider.received import Paid
from data_prep.settings import ConfigError, Settings, read_yaml
from emo_lightning.core.records import describe

NanoPerToken = int | Decimal
"""A price; $0.0375 a million tokens are 37.5."""
_DEAREST = 1_000_000
"""USD per million tokens; what is above is a slip of the pen."""


class Price(Settings):
    """What one model costs, in nano-dollars per token."""

    input: NanoPerToken
    """Of the prompt."""
    cached_input: NanoPerToken
    """Of what of the prompt the provider had cached."""
    output: NanoPerToken
    """Of the reply, thinking included."""
    batch: Price | None = None
    """Through the Batch API."""
    image: ImageTokens = ImageTokens(kind="tiles", base=2833, tile=5667)
    """How images are counted; the default is the dearest count that we know of."""

    def cost(self, prompt: int, cached: int, output: int) -> int:
        """Nano-dollars of one reply: tokens of the prompt (of them cached) and of the answer."""
        return math.ceil((prompt - cached) * self.input + cached * self.cached_input + output * self.output)

    def bound(self, prompt: int, output: int | None) -> int | None:
        """The most that a request can cost, None where its output has no limit (and costs something)."""
        dearest = max(self.input, self.cached_input)
        if output is None:
            return math.ceil(prompt * dearest) if self.output == 0 else None
        return math.ceil(prompt * dearest + output * self.output)


def price_reply(body: Paid, price: Price, upper: int | None) -> tuple[int, tuple[int, int] | None]:
    """Nano-dollars of a reply and its (prompt, output) tokens.

    A reply that names no usage is counted at the bound of its request, so that a budget holds; its tokens are None.
    """
    usage = body.usage
    if usage is None:
        return upper or 0, None
    return price.cost(usage.prompt, usage.cached, usage.output), (usage.prompt, usage.output)


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices by model from a table in USD per million tokens.

    A row has `input` and `output`, and perhaps `cached_input`, `batch` (the same three, for the Batch API) and `image` (how its
    tokens are counted, see `image_tokens.ImageTokens`).

    Raises:
        ConfigError: the table is missing or wrong.
    """
    path = Path(path)
    models = read_yaml(path).get("models")
    if not isinstance(models, dict):
        msg = f"{path}: key 'models' must map model names to prices, found {type(models).__name__}"
        raise ConfigError(msg)
    return {str(name): _price(row, f"{path}: models.{name}") for name, row in models.items()}


def _price(row: object, where: str) -> Price:
    if not isinstance(row, dict):
        msg = f"{where}: expected input, output and perhaps cached_input, batch, image, found {row!r}"
        raise ConfigError(msg)
    batch = _price(row["batch"], f"{where}.batch") if "batch" in row else None
    try:
        image = ImageTokens.model_validate(row["image"]) if "image" in row else None
    except ValidationError as error:
        msg = f"{where}.image: {describe(error)}"
        raise ConfigError(msg) from None
    money = {key: value for key, value in row.items() if key not in ("batch", "image")}
    if not {"input", "output"} <= set(money) <= {"input", "cached_input", "output"}:
        msg = f"{where}: expected input, output and perhaps cached_input, batch, image, found {row!r}"
        raise ConfigError(msg)
    nano = {key: nano_per_token(value, f"{where}.{key}") for key, value in money.items()}
    price = Price(input=nano["input"], cached_input=nano.get("cached_input", nano["input"]), output=nano["output"], batch=batch)
    return price if image is None else price.model_copy(update={"image": image})


def nano_per_token(usd_per_million: object, where: str) -> NanoPerToken:
    """A price of a table, exactly.

    Args:
        usd_per_million: as YAML has it.
        where: for errors.

    Raises:
        ConfigError: no number, below 0, or absurdly large.
    """
    try:
        usd = Decimal(str(usd_per_million))
    except InvalidOperation:
        usd = Decimal("nan")
    if isinstance(usd_per_million, bool) or not usd.is_finite():
        msg = f"{where}: {usd_per_million!r} is not a number (USD per million tokens)"
        raise ConfigError(msg)
    if not 0 <= usd <= _DEAREST:
        msg = f"{where}: {usd_per_million} must be from 0 to {_DEAREST:,} (USD per million tokens)"
        raise ConfigError(msg)
    nano = usd * 1000
    return int(nano) if nano == nano.to_integral_value() else nano
