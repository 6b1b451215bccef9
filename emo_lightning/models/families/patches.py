"""Pictures as bytes, one frame a patch: they leave the workers as they were resized, and are normalised where the model is.

The image processors of the Qwen-VL family write every patch of a still picture twice, as two frames, in float32: 8 times the bytes
of what they resized. Here a patch travels once, in uint8. On the device it is rescaled and normalised as the processor would have
done it, and embedded by one matrix product: where all frames are equal, a convolution over them is a product with the sum of its
weights over the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from PIL.Image import Resampling
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.core.jpegs import DecodedImage
from emo_lightning.models.families.resize import resized_size

if TYPE_CHECKING:
    from PIL import Image

    from emo_lightning.models.families.base import ImageProcessor
    from emo_lightning.models.families.boxes import Size

CHANNELS = 3


@dataclass(frozen=True)
class PixelScale:
    """What an image processor makes of a byte x of a channel: (x · factor - offset) / divisor, in float32.

    Args:
        factor: of all channels.
        offsets: by channel.
        divisors: by channel.
    """

    factor: float
    offsets: tuple[float, ...]
    divisors: tuple[float, ...]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Pixels (P, channels · n) of values 0 to 255, in any type that holds them, as (P, channels · n) float32."""
        found: Tensor = pixels.unflatten(1, (len(self.offsets), -1)).to(torch.float32, copy=True)
        if self.factor != 1:
            found *= self.factor
        # Numbers and no tensors: those would have to be on the device, and be spared where the model's type is changed.
        for channel, (offset, divisor) in enumerate(zip(self.offsets, self.divisors, strict=True)):
            found[:, channel].sub_(offset).div_(divisor)
        return found.flatten(1)


def pixel_scale(images: ImageProcessor) -> PixelScale | None:
    """How an image processor rescales and normalises; None where patches of one frame could not be told from its own.

    Args:
        images: its settings are read at every call, as they may change.
    """
    if images.temporal_patch_size < 2:
        return None
    mean, std = (_of_channels(value) for value in (images.image_mean, images.image_std))
    return _scale(images.rescale_factor if images.do_rescale else None, (mean, std) if images.do_normalize else None)


def _of_channels(value: float | Sequence[float]) -> tuple[float, ...]:
    return (float(value),) * CHANNELS if isinstance(value, int | float) else tuple(value)


@lru_cache
def _scale(rescale: float | None, normalise: tuple[tuple[float, ...], tuple[float, ...]] | None) -> PixelScale:
    if normalise is None:
        return PixelScale(1.0 if rescale is None else rescale, (0.0,) * CHANNELS, (1.0,) * CHANNELS)
    # transformers does both at once, with constants in float32.
    both = np.float32(1.0 if rescale is None else 1.0 / rescale)
    mean, std = (tuple(float(np.float32(value) * both) for value in values) for values in normalise)
    return PixelScale(1.0, mean, std)


def resized_pixels(picture: Image.Image, size: Size) -> Tensor:
    """A picture as torchvision's antialiased bicubic resizes it, (3, height, width) uint8; of its own size it may be the picture's memory.

    Torch resizes bytes in half the time, to the same values, where the channels of a pixel lie side by side, as Pillow has them.

    Args:
        picture: RGB.
        size: (width, height).
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import resize

    pixels = torch.from_numpy(picture.array() if isinstance(picture, DecodedImage) else np.array(picture)).permute(2, 0, 1)
    found: Tensor = resize(pixels, [size[1], size[0]], InterpolationMode.BICUBIC, antialias=True)
    return found


def _resizes_by_torch(images: ImageProcessor) -> bool:
    """Whether `resized_pixels` gives what an image processor does, which moves the channels apart first and takes twice as long."""
    limits = images.size
    known = bool(limits["shortest_edge"] and limits["longest_edge"])
    return known and images.do_resize and images.backend == "torchvision" and images.resample == Resampling.BICUBIC


def _resized(images: ImageProcessor, picture: Image.Image) -> Tensor:
    limits, factor = images.size, images.patch_size * images.merge_size
    lowest, highest = limits["shortest_edge"], limits["longest_edge"]
    return resized_pixels(picture, resized_size(*picture.size, factor=factor, min_pixels=lowest, max_pixels=highest))


def patches_of(images: ImageProcessor, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
    """`pixel_values` of RGB pictures: (P, channels · side²) uint8 of one frame, or what the processor itself makes of them.

    Beside them `image_grid_thw` (B, 3), in patches.
    """
    if pixel_scale(images) is not None:
        given: Sequence[Image.Image | Tensor] = pictures
        if resized := _resizes_by_torch(images):
            given = [_resized(images, picture) for picture in pictures]
        found = images(
            given,
            return_tensors="pt",
            do_resize=images.do_resize and not resized,
            do_rescale=False,
            do_normalize=False,
            temporal_patch_size=1,
        )
        pixels = found["pixel_values"]
        # The processors that use PIL give bytes in float32.
        as_bytes = pixels.to(torch.uint8)
        if pixels.dtype == torch.uint8 or as_bytes.to(pixels.dtype).equal(pixels):
            return {**found, "pixel_values": as_bytes}
    return images(pictures, return_tensors="pt")


class StillPatches(nn.Module):
    """The patch embedding of a vision tower for still pictures, in place of transformers' own; the names of its weights stay.

    Args:
        proj: its convolution over (frames, side, side), without overlap.
        images: the image processor that the pictures come from.
    """

    def __init__(self, proj: nn.Conv3d, images: ImageProcessor) -> None:
        super().__init__()
        self.proj: nn.Module = proj
        self.images = images
        self.patch = (proj.in_channels, *(int(side) for side in proj.kernel_size))
        """(channels, frames, side, side)."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings (P, width).

        Args:
            pixels: (P, channels · side²), one frame of bytes (`patches_of`), in any type that holds 0 to 255; or (P, channels ·
                frames · side²) as the processor normalises them.
        """
        channels, frames, *sides = self.patch
        if still := frames > 1 and pixels.shape[1] * frames == channels * frames * sides[0] * sides[1]:
            if (scale := pixel_scale(self.images)) is None:
                msg = (
                    "the image processor's settings were changed between worker and model: patches of one frame cannot be read"
                )
                raise RuntimeError(msg)
            pixels = scale.normalised(pixels)
        weight = cast(Tensor, self.proj.weight)
        pixels = pixels.to(weight.dtype)
        if not isinstance(self.proj, nn.Conv3d):
            # An adapter is on it, or a copy that trains.
            whole = pixels.view(-1, channels, 1 if still else frames, *sides).expand(-1, -1, frames, -1, -1)
            embedded: Tensor = self.proj(whole)
            return embedded.flatten(1)
        # At every use, as the weights may train: it is 1/P of the product's work.
        folded = weight.sum(2) if still else weight
        return functional.linear(pixels, folded.flatten(1), self.proj.bias)
