"""Which model, and which of its parts learn: what a user writes under `model.backbone`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emo_lightning.core.errors import UserError

Part = Literal["vision", "merger", "language"]
PARTS: tuple[Part, ...] = ("vision", "merger", "language")


class BackboneError(UserError, ValueError):
    """The backbone cannot be used as configured; the message names the path or key and what is allowed."""


@dataclass
class LoRA:
    """Low-rank adaptation (peft).

    Args:
        rank: of the update.
        alpha: scale; the update is multiplied by alpha / rank.
        dropout: on the adapter's input, active in training only.
        targets: regular expression on module names; None takes all linear layers of the parts that train.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: str | None = None

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            msg = f"lora: found rank {self.rank} and alpha {self.alpha}; expected both to be 1 or more"
            raise BackboneError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"lora.dropout: found {self.dropout}; expected 0 to below 1"
            raise BackboneError(msg)


@dataclass
class BackboneConfig:
    """Which model, and which of its parts learn.

    Args:
        path: Hugging Face id, model folder, or adapter folder (its base model is read from `adapter_config.json`).
        tuning: `full` trains the parts' own weights, `lora` adapters on them, `qlora` adapters on a 4-bit NF4 language model,
            `frozen` nothing.
        train_vision: the vision tower learns.
        train_merger: the merger between vision tower and language model learns.
        train_language: the language model learns.
        lora: for `lora` and `qlora`; ignored where `path` is an adapter, which brings its own. Which of its parts learn is decided
            above all the same.
        min_pixels: an image with fewer is enlarged; None keeps the processor's limit.
        max_pixels: an image with more is reduced; None keeps the processor's limit.
        dtype: of the weights; `auto` takes the checkpoint's.
        attention: transformers' attention implementation.
        gradient_checkpointing: recompute activations in the backward pass (non-reentrant).
    """

    path: str
    tuning: Literal["full", "lora", "qlora", "frozen"] = "lora"
    train_vision: bool = False
    train_merger: bool = True
    train_language: bool = True
    lora: LoRA | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("min_pixels", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                msg = f"backbone.{name}: found {value}; expected at least 1"
                raise BackboneError(msg)

    def trains(self, part: Part) -> bool:
        """Whether this part learns."""
        return self.tuning != "frozen" and bool(getattr(self, f"train_{part}"))


def part_of(parameter_name: str) -> Part:
    """The part of the model that a parameter belongs to, by its name."""
    if ".visual.merger." in f".{parameter_name}":
        return "merger"
    return "vision" if ".visual." in f".{parameter_name}" else "language"
