"""What models cost: the price table, in integer nano-dollars per token."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path

from pydantic import ValidationError

from data_prep.provider.image_tokens import ImageTokens
from data_prep.settings import ConfigError, Settings, read_yaml
from emo_lightning.core.records import describe


class Price(Settings):
    """What one model costs, in integer nano-dollars per token."""

    input: int
    """Of the prompt."""
    cached_input: int
    """Of what of the prompt the provider had cached."""
    output: int
    """Of the reply, thinking included."""
    batch: Price | None = None
    """Through the Batch API."""
    image: ImageTokens = ImageTokens(kind="tiles", base=2833, tile=5667)
    """How images are counted; the default is the dearest count that we know of."""

    def cost(self, prompt: int, cached: int, output: int) -> int:
        """Nano-dollars of one reply: tokens of the prompt (of them cached) and of the answer."""
        return (prompt - cached) * self.input + cached * self.cached_input + output * self.output

    def bound(self, prompt: int, output: int | None) -> int | None:
        """The most that a request can cost, None where its output has no limit (and costs something)."""
        dearest = max(self.input, self.cached_input)
        if output is None:
            return prompt * dearest if self.output == 0 else None
        return prompt * dearest + output * self.output


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices by model from a table in USD per million tokens.

    A row has `input` and `output`, and perhaps `cached_input`, `batch` (the same three, for the Batch API) and `image` (how its
    tokens are counted, see `image_tokens.ImageTokens`).

    Raises:
        ConfigError: the table is missing or wrong, or a price is finer than a nano-dollar per token.
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
    nano = {key: _nano_per_token(value, f"{where}.{key}") for key, value in money.items()}
    price = Price(input=nano["input"], cached_input=nano.get("cached_input", nano["input"]), output=nano["output"], batch=batch)
    return price if image is None else price.model_copy(update={"image": image})


def _nano_per_token(usd_per_million: object, where: str) -> int:
    try:
        nano = Decimal(str(usd_per_million)) * 1000
    except InvalidOperation:
        msg = f"{where}: {usd_per_million!r} is not a number (USD per million tokens)"
        raise ConfigError(msg) from None
    if nano < 0 or nano != nano.to_integral_value():
        msg = f"{where}: {usd_per_million} must be ≥ 0 with at most 3 decimals (USD per million tokens)"
        raise ConfigError(msg)
    return int(nano)
