"""The configuration of an annotation pass: YAML in, checked and typed out (`configs/prep/*.yaml`)."""

from __future__ import annotations

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_prep.errors import PrepError
from emo_lightning.schema import SchemaError, describe

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "prep"
"""Whole, working configurations of a pass."""

NANO = 1_000_000_000
"""Nano-dollars in a dollar."""


class ConfigError(PrepError, ValueError):
    """A configuration or price table is wrong; the message names the file, the key, what was found and what is allowed."""


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EndpointConfig(_Config):
    """One model behind an OpenAI-compatible chat endpoint."""

    name: str
    """Name in records and reports."""
    model: str
    """Name sent to the endpoint, and the key in the price table."""
    base_url: str
    api_key_env: str
    """Environment variable that holds the key; the key itself is never written anywhere."""
    parameters: dict[str, Any] = {}
    """Sent with every request (`temperature`, `max_completion_tokens`, …); part of the cache key."""
    concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request."""
    max_attempts: int = Field(default=6, ge=1)
    """Requests for one reply when the endpoint answers 429 or 5xx, or cannot be connected."""

    def api_key(self) -> str:
        """The key from the environment.

        Raises:
            ConfigError: the variable is not set.
        """
        key = os.environ.get(self.api_key_env)
        if not key:
            raise ConfigError(f"{self.name}: environment variable {self.api_key_env} (api_key_env) is not set")
        return key


class AnnotatorConfig(EndpointConfig):
    """An annotator: `full` describes and votes, `emotion` only votes (EmoViT)."""

    role: Literal["full", "emotion"] = "full"
    weight: float = Field(gt=0)
    """Weight of its vote in the pool (paper section 3.2; EmoViT carries the most)."""


class GroundingConfig(_Config):
    """How phrases become boxes and masks (paper section 3.1.2)."""

    backend: Literal["regions", "transformers", "none"] = "regions"
    detector: str = "IDEA-Research/grounding-dino-base"
    segmenter: str = "facebook/sam-vit-base"
    device: str = "cpu"
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Every candidate from this score on is stored; the cut for use is made later."""


class SplitConfig(_Config):
    """Shares for images whose source names no split; whole groups go together."""

    train: float = 0.9
    val: float = 0.05
    test: float = 0.05

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6 or min(self.train, self.val, self.test) < 0:
            raise ValueError(f"split shares {self.train}, {self.val}, {self.test} must be non-negative and sum to 1")
        return self


class WorldConfig(_Config):
    """The demo world as a source: how many images of each split."""

    seed: int = 0
    label_noise: float = Field(default=0.05, ge=0, le=1)
    splits: dict[str, int] = {"train": 300, "val": 60}


class SimulatedModel(_Config):
    """Error rates of one simulated annotator or critic."""

    role: Literal["full", "emotion", "critic"]
    emotion_error: float = Field(default=0.0, ge=0, le=1)
    """Chance to name a neighbouring emotion (drawn from the rest of the true distribution)."""
    word_error: float = Field(default=0.0, ge=0, le=1)
    """Chance for each element of the triplet to be another one of the world."""
    description: Literal["affective", "neutral"] = "affective"
    description_error: float = Field(default=0.0, ge=0, le=1)
    """Chance to describe another image."""
    intensity_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the intensity, in steps of the 1–10 scale."""
    invalid_json: float = Field(default=0.0, ge=0, le=1)
    """Chance of a reply cut in the middle of its JSON."""
    too_many_requests: float = Field(default=0.0, ge=0, le=1)
    """Chance of HTTP 429 for a request that was not refused before."""
    recall: dict[str, float] = {}
    """Critic: chance to flag a wrong field, by field (emotion, description, triplet, intensity)."""
    false_alarm: dict[str, float] = {}
    """Critic: chance to flag a right field, by field."""
    discard: float = Field(default=0.0, ge=0, le=1)
    """Critic: chance to discard an annotation in which description, triplet and emotion are all wrong."""


class SimulationConfig(_Config):
    """The simulated annotators, by model name."""

    seed: int = 0
    models: dict[str, SimulatedModel]


class PrepConfig(_Config):
    """A whole pass: who annotates, who criticises, how votes are pooled, how subjects are grounded."""

    annotators: list[AnnotatorConfig] = Field(min_length=1)
    preferred: str
    """The full annotator whose description and triplet are taken; another one only where it gave no valid reply."""
    critic: EndpointConfig
    margin: float = Field(default=0.2, ge=0, le=0.5)
    """Pooled emotions closer than this (first − second) are decided by the critic."""
    max_revisions: int = Field(default=3, ge=0)
    """Revision rounds before an image goes to the human queue."""
    max_invalid: int = Field(default=2, ge=0)
    """How often a reply that does not follow the schema is asked again, with the validation error."""
    grounding: GroundingConfig = GroundingConfig()
    splits: SplitConfig = SplitConfig()
    prices: Path = Path("prices.yaml")
    """Price table; relative to this file."""
    world: WorldConfig | None = None
    simulation: SimulationConfig | None = None

    @model_validator(mode="after")
    def _names(self) -> PrepConfig:
        names = [a.name for a in self.annotators]
        if len(set(names)) != len(names) or self.critic.name in names:
            raise ValueError(f"annotators and critic need different names, found {[*names, self.critic.name]}")
        full = [a.name for a in self.annotators if a.role == "full"]
        if self.preferred not in full:
            raise ValueError(f"preferred {self.preferred!r} is no annotator with role full; allowed: {full}")
        return self

    @property
    def endpoints(self) -> list[EndpointConfig]:
        """Annotators, then the critic."""
        return [*self.annotators, self.critic]

    def at(self, base_url: str, api_key_env: str) -> PrepConfig:
        """The same pass with every endpoint at one address, e.g. that of the simulated annotators."""
        move = {"base_url": base_url, "api_key_env": api_key_env}
        return self.model_copy(
            update={
                "annotators": [a.model_copy(update=move) for a in self.annotators],
                "critic": self.critic.model_copy(update=move),
            }
        )

    @classmethod
    def load(cls, path: str | Path) -> PrepConfig:
        """Read a YAML file; `prices` becomes a path relative to that file.

        Raises:
            ConfigError: no such file, not YAML, unknown or wrong key.
        """
        path = Path(path)
        value = _read_yaml(path)
        try:
            config = cls.model_validate(value)
        except ValidationError as error:
            raise ConfigError(f"{path}: {describe(error)}") from None
        except SchemaError as error:
            raise ConfigError(f"{path}: {error}") from None
        return config.model_copy(update={"prices": path.parent / config.prices})


class Price(_Config):
    """What one model costs, in integer nano-dollars per token."""

    input: int
    cached_input: int
    output: int

    def cost(self, prompt: int, cached: int, output: int) -> int:
        """Nano-dollars of one reply: tokens of the prompt (of them cached) and of the answer."""
        return (prompt - cached) * self.input + cached * self.cached_input + output * self.output


def load_prices(path: str | Path) -> dict[str, Price]:
    """Prices by model from a table in USD per million tokens (`input`, `output`, optional `cached_input`).

    Raises:
        ConfigError: the table is missing or wrong, or a price is finer than a nano-dollar per token.
    """
    path = Path(path)
    models = _read_yaml(path).get("models")
    if not isinstance(models, dict):
        raise ConfigError(f"{path}: key 'models' must map model names to prices, found {type(models).__name__}")
    prices = {}
    for name, row in models.items():
        where = f"{path}: models.{name}"
        if not isinstance(row, dict) or not {"input", "output"} <= set(row) <= {"input", "cached_input", "output"}:
            raise ConfigError(f"{where}: expected input, output and perhaps cached_input, found {row!r}")
        nano = {key: _nano_per_token(value, f"{where}.{key}") for key, value in row.items()}
        prices[str(name)] = Price(**{"cached_input": nano["input"], **nano})
    return prices


def _nano_per_token(usd_per_million: object, where: str) -> int:
    try:
        nano = Decimal(str(usd_per_million)) * 1000
    except InvalidOperation:
        raise ConfigError(f"{where}: {usd_per_million!r} is not a number (USD per million tokens)") from None
    if nano < 0 or nano != nano.to_integral_value():
        raise ConfigError(f"{where}: {usd_per_million} must be ≥ 0 with at most 3 decimals (USD per million tokens)")
    return int(nano)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a mapping, found {type(value).__name__}")
    return value
