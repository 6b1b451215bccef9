"""The configuration of an annotation pass: YAML in, checked and typed out (`configs/prep/*.yaml`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from data_prep.annotate.prompts import EMOVIT
from data_prep.demo.simulation.config import Settings as _Config
from data_prep.demo.simulation.config import SimulatedImages, SimulatedModel, SimulationConfig
from data_prep.provider.budget import NANO
from data_prep.provider.prices import ConfigError, Price, load_prices, read_yaml
from emo_lightning.core.records import SchemaError, describe

_BESIDE = Path(__file__).resolve().parents[1]
CONFIGS = next(
    (
        place
        for place in (_BESIDE / "configs" / "prep", _BESIDE / "emo_lightning" / "shipped" / "configs" / "prep")
        if place.is_dir()
    ),
    _BESIDE / "configs" / "prep",
)
"""Whole, working configurations of a pass: of the checkout, or of the wheel."""

__all__ = [
    "CONFIGS",
    "NANO",
    "ConfigError",
    "EndpointConfig",
    "PrepConfig",
    "Price",
    "SimulatedImages",
    "SimulatedModel",
    "SimulationConfig",
    "load_prices",
    "read_yaml",
]


def shipped(path: str | Path) -> Path:
    """The path itself, or, where nothing is there, our own file of that name: `configs/prep/api_only.yaml` is found from any directory."""
    own = CONFIGS.parents[1] / path
    return own if own.is_file() and not Path(path).exists() else Path(path)


class EndpointConfig(_Config):
    """One model behind an OpenAI-compatible chat endpoint."""

    name: str
    """Name in records and reports."""
    model: str
    """Name sent to the endpoint, and the key in the price table."""
    base_url: str
    api_key_env: str
    """Environment variable that holds the key; the key itself is never written anywhere."""
    parameters: dict[str, Any] = Field(default={})
    """Sent with every request (`temperature`, `max_completion_tokens`, …); part of the cache key."""
    concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    """Seconds for one request."""
    max_attempts: int = Field(default=6, ge=1)
    """Requests for one reply when the endpoint answers 429 or 5xx, or cannot be connected; none counts while it answers nobody."""
    max_outage: float = Field(default=6 * 3600.0, ge=0)
    """Seconds for which an endpoint that answers nobody (no connection, 5xx, 429, no answer in time) is waited for, and the longest
    pause (Retry-After) that is obeyed; then the pass ends."""
    batch: bool = False
    """With `--batch`: ask through the Batch API (needs a `batch` price, and an endpoint that serves /files and /batches)."""

    @property
    def max_output_tokens(self) -> int | None:
        """The most tokens of a reply, thinking included; None where `parameters` set no limit."""
        limits = [self.parameters[k] for k in ("max_completion_tokens", "max_tokens") if k in self.parameters]
        return min(map(int, limits)) * int(self.parameters.get("n", 1)) if limits else None

    def api_key(self) -> str:
        """The key from the environment.

        Raises:
            ConfigError: the variable is not set.
        """
        key = os.environ.get(self.api_key_env)
        if not key:
            msg = f"{self.name}: environment variable {self.api_key_env} (api_key_env) is not set"
            raise ConfigError(msg)
        if not key.isprintable() or not key.isascii() or " " in key:
            msg = f"{self.name}: environment variable {self.api_key_env} holds white space or other characters of no key"
            raise ConfigError(msg)
        return key


class AnnotatorConfig(EndpointConfig):
    """An annotator: `full` describes and votes, `emotion` only votes (EmoViT)."""

    role: Literal["full", "emotion"] = "full"
    weight: float = Field(gt=0)
    """Weight of its vote in the pool (paper section 3.2; EmoViT carries the most)."""


class LocalAnnotatorConfig(_Config):
    """An annotator that runs on this machine (`backend: local`): EmoViT, which votes on emotion alone."""

    name: str
    backend: Literal["local"]
    role: Literal["emotion"] = "emotion"
    path: str
    """Folder of `emo prep emovit-convert`, or hub name of an InstructBLIP."""
    weight: float = Field(gt=0)
    """As of the other annotators."""
    prompt: str = EMOVIT
    """The question; part of the key under which votes are kept."""
    device: str = "auto"
    """`auto` is `cuda` where there is one, else `cpu`; bfloat16 on a GPU."""
    batch_size: int = Field(default=8, ge=1)
    """Images that go through the model together."""


class GroundingConfig(_Config):
    """How phrases become boxes and masks (paper section 3.1.2)."""

    backend: Literal["regions", "transformers", "original", "none"] = "regions"
    """`regions`: match the regions that the source ships; `original`: the authors' packages and `.pth` files (extra `[grounding]`)."""
    detector: str = "IDEA-Research/grounding-dino-base"
    """Hub name, `name@revision` or folder; for `original` a `.pth` file."""
    segmenter: str | None = "facebook/sam-vit-base"
    """As `detector`; null for boxes without masks."""
    text_encoder: str = "bert-base-uncased"
    """For `original`: tokenizer and configuration of the detector's BERT (hub name or folder)."""
    device: str = "auto"
    """`auto` is `cuda` where there is one, else `cpu`."""
    batch_size: int = Field(default=8, ge=1)
    """Images that go through the networks together."""
    threshold: float = Field(default=0.25, ge=0, le=1)
    """Every candidate from this score on is stored."""
    cut: float = Field(default=0.35, ge=0, le=1)
    """Stored candidates from this score on come into the records; changing it computes nothing again."""

    @model_validator(mode="after")
    def _cut_what_is_stored(self) -> GroundingConfig:
        if self.cut < self.threshold:
            msg = f"cut {self.cut} is below threshold {self.threshold}: nothing below the threshold is stored"
            raise ValueError(msg)
        return self


class SplitConfig(_Config):
    """Shares for images whose source names no split; whole groups go together."""

    train: float = 0.9
    val: float = 0.05
    test: float = 0.05

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6 or min(self.train, self.val, self.test) < 0:
            msg = f"split shares {self.train}, {self.val}, {self.test} must be non-negative and sum to 1"
            raise ValueError(msg)
        return self


class WorldConfig(_Config):
    """The demo world as a source: how many images of each split."""

    seed: int = 0
    label_noise: float = Field(default=0.05, ge=0, le=1)
    style: Literal["flat", "dusk"] = "flat"
    """Colours and lines: the same world drawn in another way, for tests out of the domain that was trained on."""
    splits: dict[str, int] = Field(default={"train": 300, "val": 60})


class BatchConfig(_Config):
    """Batch mode (`emo prep annotate --batch`)."""

    poll_seconds: float = Field(default=30.0, gt=0)
    settle_seconds: float = Field(default=60.0, ge=0)
    """How long after a creation of unknown outcome the provider's list of batches is believed."""
    max_requests: int = Field(default=50_000, ge=1, le=50_000)
    """Requests of one batch; the provider's limit. An account with a small queue wants fewer."""
    max_bytes: int = Field(default=190_000_000, ge=1, le=200_000_000)
    """Of one file; the provider's limit is 200 MB."""


class PrepConfig(_Config):
    """A whole pass: who annotates, who criticises, how votes are pooled, how subjects are grounded."""

    annotators: list[AnnotatorConfig] = Field(min_length=1)
    """Those behind endpoints."""
    local: list[LocalAnnotatorConfig] = Field(default=[])
    """Those on this machine; in YAML they stand among `annotators`, with `backend: local`."""
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
    batches: BatchConfig = BatchConfig()
    prices: Path = Path("prices.yaml")
    """Price table; relative to this file."""
    world: WorldConfig | None = None
    simulation: SimulationConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _local_apart(cls, value: Any) -> Any:
        rows = value.get("annotators") if isinstance(value, dict) else None
        if not isinstance(rows, list):
            return value
        local = [row for row in rows if isinstance(row, dict) and row.get("backend") == "local"]
        rest = [row for row in rows if row not in local]
        return {**value, "annotators": rest, "local": [*value.get("local", []), *local]}

    @model_validator(mode="after")
    def _names(self) -> PrepConfig:
        names = [*(a.name for a in self.annotators), *(a.name for a in self.local)]
        if len(set(names)) != len(names) or self.critic.name in names:
            msg = f"annotators and critic need different names, found {[*names, self.critic.name]}"
            raise ValueError(msg)
        full = [a.name for a in self.annotators if a.role == "full"]
        if self.preferred not in full:
            msg = f"preferred {self.preferred!r} is no annotator with role full; allowed: {full}"
            raise ValueError(msg)
        return self

    @property
    def endpoints(self) -> list[EndpointConfig]:
        """Annotators, then the critic."""
        return [*self.annotators, self.critic]

    def check_keys(self) -> None:
        """Whether every endpoint's key is there.

        Raises:
            ConfigError: it names all variables that are not set, and who needs them.
        """
        missing: dict[str, list[str]] = {}
        for endpoint in self.endpoints:
            if os.environ.get(endpoint.api_key_env):
                endpoint.api_key()
            else:
                missing.setdefault(endpoint.api_key_env, []).append(endpoint.name)
        if missing:
            named = ", ".join(f"{variable} ({', '.join(names)})" for variable, names in missing.items())
            msg = f"keys come from environment variables (api_key_env), and these are not set: {named}"
            raise ConfigError(msg)

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
        path = shipped(path)
        value = read_yaml(path)
        try:
            config = cls.model_validate(value)
        except ValidationError as error:
            msg = f"{path}: {describe(error)}"
            raise ConfigError(msg) from None
        except SchemaError as error:
            msg = f"{path}: {error}"
            raise ConfigError(msg) from None
        return config.model_copy(update={"prices": path.parent / config.prices})
