"""Valence, arousal and dominance of an emotion embedding: a linear layer that is trained with the DES head (`model.va_weight`)."""

from __future__ import annotations

from pathlib import Path
from typing import Self, TypedDict

import torch
from torch import Tensor, nn

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import MADE_OF_FILE, check_made_of, made_of, weights_hash, write_made_of
from emo_lightning.core.records import DIMENSIONS
from emo_lightning.models.weights import CONFIG_NAME, WEIGHTS_NAME, load_network, save_network

AFFECT_FOLDER = "affect"
"""Beside the folder of the DES head that it was trained with."""


class AffectHeadConfig(TypedDict):
    """The constructor's arguments."""

    des_dim: int
    anchors: str | None
    dimensions: list[str]


class AffectHead(nn.Module):
    """DES to valence, arousal and dominance, each about -1 to 1, the scale that predictions give them on.

    Args:
        des_dim: width of the embedding.
        anchors: source of the anchors that images without ratings were trained towards; None where there were none.
        dimensions: that had a target, of `DIMENSIONS`; None: all. Of the others the layer knows nothing.

    Raises:
        InputError: a dimension that there is not, or none.
    """

    def __init__(self, des_dim: int, anchors: str | None = None, dimensions: list[str] | None = None) -> None:
        super().__init__()
        self.des_dim, self.anchors = des_dim, anchors
        self.dimensions = list(DIMENSIONS) if dimensions is None else dimensions
        if not self.dimensions or not set(self.dimensions) <= set(DIMENSIONS):
            msg = f"dimensions: found {', '.join(self.dimensions) or 'none'}; expected some of {', '.join(DIMENSIONS)}"
            raise InputError(msg)
        self.linear = nn.Linear(des_dim, len(DIMENSIONS))

    def forward(self, des: Tensor) -> Tensor:
        """(B, des_dim) to (B, 3), in the order of `DIMENSIONS`; one that is not in `dimensions` is untrained."""
        found: Tensor = self.linear(des)
        return found

    @torch.no_grad()
    def said(self, des: Tensor) -> list[dict[str, float]]:
        """What it says of N embeddings, (N, des_dim) on any device: of each the dimensions that it was trained for, by name."""
        values = self(des.to(self.linear.weight)).double().cpu().tolist()
        return [{name: row[DIMENSIONS.index(name)] for name in self.dimensions} for row in values]

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        config: AffectHeadConfig = {"des_dim": self.des_dim, "anchors": self.anchors, "dimensions": self.dimensions}
        save_network(self, directory, config)

    def save_beside(self, head: str | Path) -> Path:
        """Write it beside a DES head, by whose content it names that head; returns its folder."""
        folder = Path(head).parent / AFFECT_FOLDER
        self.save_pretrained(folder)
        write_made_of(folder, {"head": weights_hash(str(head))})
        return folder

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read a folder of `save_pretrained`; in eval mode.

        Raises:
            MissingFileError: a file is missing.
            InputError: unknown config keys or wrong values, tensors missing, unexpected or of another shape.
        """
        return load_network(cls, directory)

    @classmethod
    def beside(cls, head: str | Path) -> Self | None:
        """The one that was trained with a DES head, frozen; None where there is none.

        Args:
            head: folder of the DES head.

        Raises:
            BackboneError: the one that is there was trained with another head.
            InputError: as `from_pretrained`.
        """
        folder = affect_folder(head)
        return None if folder is None else cls.from_pretrained(folder).requires_grad_(False)


def affect_folder(head: str | Path) -> Path | None:
    """Where the affect head of a DES head is; None where it has none.

    Raises:
        BackboneError: the one that is there was trained with another head.
    """
    folder = Path(head).parent / AFFECT_FOLDER
    if not (folder / CONFIG_NAME).is_file():
        return None
    check_made_of(f"affect head {folder}", made_of(folder), {"head": weights_hash(str(head))})
    return folder


def remove_beside(head: str | Path) -> None:
    """Remove the affect head that an earlier training left: it is of another DES head."""
    for name in (CONFIG_NAME, WEIGHTS_NAME, MADE_OF_FILE):
        (Path(head).parent / AFFECT_FOLDER / name).unlink(missing_ok=True)
