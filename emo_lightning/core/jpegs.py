"""JPEGs decoded by torchvision into an array, out of which Pillow's own copy of the pixels is made only for those who want it.

Both packages decode with libjpeg-turbo, to the same bytes. Pillow has four bytes a pixel, so an image that becomes a tensor is copied
into Pillow's layout and out of it again, which takes half as long as decoding.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from PIL import ExifTags, Image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL._imaging import PixelAccess

_FORMATS = ("JPEG", "MPO")
_MODES = ("RGB", "L")
"""Others (CMYK) become RGB by Pillow's rules and not by libjpeg's."""


class DecodedImage(Image.Image):
    """An RGB image that is an array until somebody does with it what only Pillow can.

    Args:
        pixels: (height, width, 3).
    """

    _array: NDArray[np.uint8] | None = None

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__()
        height, width, _ = pixels.shape
        self._mode, self._size, self._array = "RGB", (width, height), pixels

    def load(self) -> PixelAccess | None:
        """As every image; from now on the pixels are Pillow's, who may change them."""
        if (array := self._array) is not None:
            self.im = Image.fromarray(array).im
            self._array = None
        return super().load()

    def array(self) -> NDArray[np.uint8]:
        """(height, width, 3), not to be written to: the image may still be made of it."""
        import numpy as np

        return np.array(self) if self._array is None else self._array


def is_plain_jpeg(image: Image.Image) -> bool:
    """Whether `decoded_jpeg` gives what Pillow would: of an image that Pillow has opened, whose header is good."""
    return (
        image.format in _FORMATS and image.mode in _MODES and image.getexif().get(ExifTags.Base.Orientation) not in range(2, 9)
    )


def decoded_jpeg(data: bytes) -> DecodedImage | None:
    """The pixels of a plain JPEG in RGB; None where Pillow has to say whether it is damaged, or torch is not in use."""
    # Starting torch takes as long as decoding some thousand pictures.
    if "torch" not in sys.modules:
        return None
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    try:
        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    # It refuses some damaged files that Pillow takes, and every file where it was built without libjpeg.
    except RuntimeError:
        return None
    return DecodedImage(pixels.permute(1, 2, 0).contiguous().numpy())
