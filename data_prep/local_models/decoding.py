"""What steps with a model share: an image ready for it, and the device it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def decode(data: bytes) -> Image.Image:
    """An encoded image, RGB."""
    from emo_lightning.core.images import open_image

    return open_image(data, "an image of the store").convert("RGB")


def device_of(name: str) -> str:
    """`auto` → `cuda` where there is one, else `cpu`; any other name stays."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
