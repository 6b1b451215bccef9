"""What steps with a model share: an image ready for it, and the device it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emo_lightning.core.devices import usable_device

if TYPE_CHECKING:
    from PIL import Image


def decode(data: bytes) -> Image.Image:
    """An encoded image, RGB."""
    from emo_lightning.core.images import open_image

    return open_image(data, "an image of the store").convert("RGB")


def device_of(name: str) -> str:
    """`auto` → `cuda` where there is one, else `cpu`; any other name stays.

    Raises:
        DeviceError: this machine has no such device.
    """
    return usable_device(None if name == "auto" else name)
