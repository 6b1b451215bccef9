"""The configuration of an annotation pass: YAML in, checked and typed out (`configs/prep/*.yaml`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from data_prep.provider.config import BatchConfig, EndpointConfig, shown_variable
from data_prep.settings import ConfigError, Settings, beside, read_yaml, shipped
from emo_lightning.core.devices import check_device_name
from emo_lightning.core.records import SchemaError, describe

EMOVIT_QUESTION = (
    "Please select the emotion closest to the image from the following options:"
    "amusement, anger, awe, contentment, disgust, excitement, fear and sadness "
    "(Do not provide answers outside of the candidates options.) Please answer in the following format:  Predict emotion:"
)
"""EmoViT's own label question, letter by letter as in its instruction data: it was trained on these words and on no others."""

Device = Annotated[str, AfterValidator(lambda name: name if name == "auto" else check_device_name(name))]


class AnnotatorConfig(EndpointConfig):
    """An annotator: `full` describes and votes, `emotion` only votes (EmoViT)."""

    role: Literal["full", "emotion"] = "full"
    """What it is asked for."""
    weight: float = Field(gt=0)
    """Weight of its vote in the pool (paper section 3.2; EmoViT carries the most)."""


class LocalAnnotatorConfig(Settings):
    """An annotator that runs on this machine (`backend: local`): EmoViT, which votes on emotion alone."""

    name: str
    """Name in records and reports."""
    backend: Literal["local"]
    """Tells it from the annotators behind endpoints."""
    role: Literal["emotion"] = "emotion"
    """It votes, and describes nothing."""
    path: str
    """Folder of `emo prep emovit-convert`, or hub name of an InstructBLIP."""
    weight: float = Field(gt=0)
    """As of the other annotators."""
    prompt: str = EMOVIT_QUESTION
    """The question; part of the key under which votes are kept."""
    device: Device = "auto"
    """`auto` is `cuda` where there is one, else `cpu`; bfloat16 on a GPU."""
    batch_size: int = Field(default=8, ge=1)
    """Images that go through the model together."""


class GroundingConfig(Settings):
    """How phrases become boxes and masks (paper section 3.1.2)."""

    backend: Literal["regions", "transformers", "original", "none"] = "regions"
    """`regions`: match the regions that the source ships; `original`: the authors' packages and `.pth` files (extra `[grounding]`)."""
    detector: str = "IDEA-Research/grounding-dino-base"
    """Hub name, `name@revision` or folder; for `original` a `.pth` file."""
    segmenter: str | None = "facebook/sam-vit-base"
    """As `detector`; null for boxes without masks."""
    text_encoder: str = "bert-base-uncased"
    """For `original`: tokenizer and configuration of the detector's BERT (hub name or folder)."""
    device: Device = "auto"
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


class SplitConfig(Settings):
    """Shares for images whose source names no split; whole groups go together."""

    train: float = 0.9
    """Share of images to train on."""
    val: float = 0.05
    """Share of images to choose by."""
    test: float = 0.05
    """Share of images to judge by."""

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitConfig:
        if abs(self.train + self.val + self.test - 1) > 1e-6 or min(self.train, self.val, self.test) < 0:
            msg = f"split shares {self.train}, {self.val}, {self.test} must be non-negative and sum to 1"
            raise ValueError(msg)
        return self


class PrepConfig(Settings):
    """A whole pass: who annotates, who criticises, how votes are pooled, how subjects are grounded."""

    annotators: list[AnnotatorConfig] = Field(min_length=1)
    """Those behind endpoints."""
    local: list[LocalAnnotatorConfig] = Field(default=[])
    """Those on this machine; in YAML they stand among `annotators`, with `backend: local`."""
    preferred: str
    """The full annotator whose description and triplet are taken; another one only where it gave no valid reply."""
    critic: EndpointConfig
    """Who judges every annotation."""
    margin: float = Field(default=0.2, ge=0, le=0.5)
    """Pooled emotions closer than this (first − second) are decided by the critic."""
    max_revisions: int = Field(default=3, ge=0)
    """Revision rounds before an image goes to the human queue."""
    max_invalid: int = Field(default=2, ge=0)
    """How often a reply that does not follow the schema is asked again, with the validation error."""
    declined: Literal["human", "left_out"] = "human"
    """What becomes of an image that its provider declines (400, 403, 413, 422, a refusal): a person decides, or it is left out."""
    grounding: GroundingConfig = GroundingConfig()
    """How phrases become boxes and masks."""
    splits: SplitConfig = SplitConfig()
    """Of images whose source names no split."""
    batches: BatchConfig = BatchConfig()
    """With `--batch`."""
    prices: Path = Path("prices.yaml")
    """Price table; relative to this file."""

    @model_validator(mode="before")
    @classmethod
    def _local_apart(cls, value: object) -> object:
        if not isinstance(value, dict) or not isinstance(rows := value.get("annotators"), list):
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
            named = ", ".join(f"{shown_variable(variable)} ({', '.join(names)})" for variable, names in missing.items())
            msg = f"keys come from environment variables (api_key_env), and these are not set: {named}"
            raise ConfigError(msg)

    def at(self, base_url: str, api_key_env: str) -> Self:
        """The same pass with every endpoint at one address, e.g. that of the simulated annotators."""
        return self.model_copy(
            update={
                "annotators": [a.moved(base_url, api_key_env) for a in self.annotators],
                "critic": self.critic.moved(base_url, api_key_env),
            }
        )

    def allowing_http(self) -> Self:
        """The same pass; no endpoint needs https."""
        annotators, critic = [a.allowing_http() for a in self.annotators], self.critic.allowing_http()
        return self.model_copy(update={"annotators": annotators, "critic": critic})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file; `prices` is relative to that file; where none is there, ours is taken.

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
        return config.model_copy(update={"prices": beside(path.parent, config.prices)})
