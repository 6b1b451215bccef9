"""JPEGs decoded by simplejpeg into an array, out of which Pillow's own copy of the pixels is made only for those who want it.

Both packages decode with libjpeg-turbo, to the same bytes. Pillow has four bytes a pixel, so an image that becomes a tensor is copied
into Pillow's layout and out of it again, which takes half as long as decoding.
"""

from __future__ import annotations

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
    """An RGB image that is an array until somebody does with it what only Pillow can. Pixels alone: no format, no EXIF, no profile.

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

        # Another thread may load it meanwhile.
        array = self._array
        return np.array(self) if array is None else array


def is_plain_jpeg(image: Image.Image) -> bool:
    """Whether `decoded_jpeg` gives what Pillow would: of an image that Pillow has opened, whose header is good."""
    return (
        image.format in _FORMATS and image.mode in _MODES and image.getexif().get(ExifTags.Base.Orientation) not in range(2, 9)
    )


def decoded_jpeg(data: bytes) -> DecodedImage | None:
    """The pixels of a plain JPEG in RGB; None where anything is wrong with it: whether it can be taken all the same is Pillow's to say."""
    # It imports numpy, which commands that open no picture are not made to wait for.
    from simplejpeg import decode_jpeg

    try:
        return DecodedImage(decode_jpeg(data))
    except ValueError:
        return None
