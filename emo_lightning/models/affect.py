"""Valence, arousal and dominance of an emotion embedding: a linear layer that is trained with the DES head (`model.va_weight`)."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypedDict

from torch import Tensor, nn

from emo_lightning.core.records import DIMENSIONS
from emo_lightning.models.weights import load_network, save_network


class AffectHeadConfig(TypedDict):
    """The constructor's arguments."""

    des_dim: int
    anchors: str | None


class AffectHead(nn.Module):
    """DES to valence, arousal and dominance, each about -1 to 1, the scale that predictions give them on.

    Args:
        des_dim: width of the embedding.
        anchors: source of the anchors that images without ratings were trained towards; None where there were none.
    """

    def __init__(self, des_dim: int, anchors: str | None = None) -> None:
        super().__init__()
        self.des_dim, self.anchors = des_dim, anchors
        self.linear = nn.Linear(des_dim, len(DIMENSIONS))

    def forward(self, des: Tensor) -> Tensor:
        """(B, des_dim) to (B, 3); a dimension that no target had is untrained."""
        found: Tensor = self.linear(des)
        return found

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        config: AffectHeadConfig = {"des_dim": self.des_dim, "anchors": self.anchors}
        save_network(self, directory, config)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read a folder of `save_pretrained`; in eval mode.

        Raises:
            MissingFileError: a file is missing.
            InputError: unknown config keys or wrong values, tensors missing, unexpected or of another shape.
        """
        return load_network(cls, directory)
