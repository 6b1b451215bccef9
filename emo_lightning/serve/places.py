"""How many pictures may be on their way, and how large they may be together: what is over that is refused at once, and kept nowhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from emo_lightning.serve.failures import ApiError


class PicturePlaces:
    """Of pictures from the moment that a request names them until it is answered. Of one thread, that of the requests.

    Args:
        most: pictures.
        pixels: of all of them together.
        delay: seconds after which there may be room again.
    """

    def __init__(self, most: int, pixels: int, delay: Callable[[int], float]) -> None:
        self._most, self._pixels, self._delay = most, pixels, delay
        self.taken = 0
        """Pictures that hold a place."""
        self.decoded = 0
        """Pixels of those that are, or are about to be, decoded."""

    @contextmanager
    def hold(self, count: int) -> Iterator[Held]:
        """Places for the pictures of a request.

        Raises:
            ApiError: 503, there are not so many.
        """
        if self.taken + count > self._most:
            taken = f"{self.taken} of {self._most} places are taken"
            raise self.full(taken)
        self.taken += count
        held = Held(self)
        try:
            yield held
        finally:
            self.taken -= count
            self.decoded -= held.pixels

    def full(self, what: str) -> ApiError:
        """What a request is told for which there is no room.

        Args:
            what: is taken.
        """
        seconds = min(60, max(1, round(self._delay(self.taken))))
        return ApiError(503, f"busy: {what}; ask again in {seconds} s", "overloaded", retry_after=seconds)

    def take_pixels(self, count: int) -> None:
        """Note pixels that are about to be decoded.

        Raises:
            ApiError: 503, too many are.
        """
        if self.decoded + count > self._pixels:
            taken = f"{self.decoded:,} of {self._pixels:,} pixels are being looked at"
            raise self.full(taken)
        self.decoded += count


class Held:
    """The places of one request."""

    def __init__(self, places: PicturePlaces) -> None:
        self._places = places
        self.pixels = 0

    def take_pixels(self, count: int) -> None:
        """Before a picture of the request is decoded; see `PicturePlaces.take_pixels`."""
        self._places.take_pixels(count)
        self.pixels += count
