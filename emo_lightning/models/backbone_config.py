"""Which model, and which of its parts learn: what a user writes under `model.backbone`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from emo_lightning.core.model_folders import BackboneError
from emo_lightning.models.families import BackbonePart

__all__ = ["BackboneConfig", "BackboneError", "LoRA", "Tuning"]

Tuning = Literal["full", "lora", "qlora", "frozen"]


@dataclass
class LoRA:
    """Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685), by peft."""

    rank: int = 16
    """Rank of the update."""
    alpha: int = 32
    """Scale; the update is multiplied by alpha / rank."""
    dropout: float = 0.05
    """Dropout on the adapter's input, active in training only."""
    targets: str | None = None
    """Regular expression on module names; null takes all linear layers of the parts that train."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            msg = f"lora: found rank {self.rank} and alpha {self.alpha}; expected both to be 1 or more"
            raise BackboneError(msg)
        if not 0 <= self.dropout < 1:
            msg = f"lora.dropout: found {self.dropout}; expected 0 to below 1"
            raise BackboneError(msg)


@dataclass
class BackboneConfig:
    """Which model, and which of its parts learn."""

    path: str
    """Hugging Face id, model folder, or adapter folder (its base model is read from `adapter_config.json`)."""
    tuning: Tuning = "lora"
    """`full` trains the parts' own weights, `lora` adapters on them, `qlora` adapters on a 4-bit NF4 language model, `frozen` nothing."""
    train_vision: bool = False
    """The vision tower learns."""
    train_merger: bool = True
    """The merger between vision tower and language model learns."""
    train_language: bool = True
    """The language model learns."""
    lora: LoRA | None = None
    """For `lora` and `qlora`; ignored where `path` is an adapter, which brings its own. The keys above decide all the same which of
    its parts learn."""
    min_pixels: int | None = None
    """An image with fewer pixels is enlarged; null keeps the processor's limit."""
    max_pixels: int | None = None
    """An image with more pixels is reduced; null keeps the processor's limit."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the weights; `auto` takes the checkpoint's."""
    adapter_dtype: Literal["float32", "base"] = "float32"
    """Type of the adapters' weights where the base is in half precision: float32 keeps updates that bfloat16 would round away; `base`
    takes the base's, and halves what adapters and their optimiser take."""
    attention: str = "sdpa"
    """Transformers' attention implementation."""
    gradient_checkpointing: bool | Literal["every_2", "every_3", "every_4"] = False
    """Recompute activations in the backward pass (non-reentrant): of all blocks that learn, or of every second, third or fourth, which
    costs less time and saves less memory."""
    vision_cache: str = "off"
    """Where what leaves the frozen vision tower is kept, so that each image passes it once and not in every epoch and round: a folder,
    `auto` (`vision` in `$EMO_CACHE`, else in `$XDG_CACHE_HOME/emo-lightning` or `~/.cache/emo-lightning`), `off`, or a URL
    (`s3://…`): as `auto`, and what others have put there is copied, what is computed here is put there. Where the tower learns, nothing
    is kept."""
    compile: bool = False
    """Compile the blocks of both towers one by one (`torch.compile`): elementwise work is fused, attention stays as it is. The first
    steps take minutes."""

    def __post_init__(self) -> None:
        if not self.vision_cache.strip():
            msg = "backbone.vision_cache: found an empty text; allowed: auto, a folder, off"
            raise BackboneError(msg)
        if self.vision_cache.lower() in ("auto", "off"):
            # As a word of YAML, it may be written Off or OFF.
            self.vision_cache = self.vision_cache.lower()
        for name, value in (("min_pixels", self.min_pixels), ("max_pixels", self.max_pixels)):
            if value is not None and value < 1:
                msg = f"backbone.{name}: found {value}; expected at least 1"
                raise BackboneError(msg)

    @property
    def cached_part(self) -> BackbonePart | None:
        """The last part whose states `vision_cache` keeps; None: the tower runs in every step.

        It is the merger where a training leaves both alone. A model that learns nothing at all reads what left the tower: that is the same
        for all that has been fine-tuned without it.
        """
        if self.vision_cache == "off" or self.trains("vision"):
            return None
        return "vision" if self.tuning == "frozen" or self.trains("merger") else "merger"

    def trains(self, part: BackbonePart) -> bool:
        """Whether this part learns."""
        wanted = {"vision": self.train_vision, "merger": self.train_merger, "language": self.train_language}
        return self.tuning != "frozen" and wanted[part]

    def frozen(self) -> BackboneConfig:
        """The same model with nothing to learn: no fresh adapter is put on it; 4 bits stay 4 bits."""
        return replace(self, tuning="qlora" if self.tuning == "qlora" else "frozen")
