"""What the datasets over tars share that give pictures: each decoded, or out of a cache of the vision tower."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Generic, NamedTuple, Self, TypeVar

from PIL import Image

from emo_lightning.core.records import Record
from emo_lightning.data.images import grey
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.models.families.base import CachedPicture

SampleT_co = TypeVar("SampleT_co", covariant=True)


PictureT = TypeVar("PictureT")


class Pictured(NamedTuple, Generic[PictureT]):
    """A record and its picture."""

    record: Record
    picture: PictureT
    """Where there is a fault, something of the same size, that no result may count."""
    key: str
    """What it goes by (`TarIndex.name`): the id of the record, where that names the image."""
    fault: str | None = None
    """Why the picture cannot be read (`data.on_error: skip`)."""


def read_pictured(index: TarIndex, row: int, *, skip: bool) -> Pictured[Image.Image]:
    """Decode the picture of a row.

    Args:
        index: the images and their records.
        row: of the index.
        skip: give grey, and why, in the place of a picture that cannot be read.

    Raises:
        ShardError: the record cannot be read, or, unless `skip`, the picture.
    """
    record, key = index.record(row), index.name(row)
    try:
        return Pictured(record, index.picture(row, record), key)
    except ShardError as error:
        if not skip:
            raise
        # As many tokens as were planned, and none that counts: every rank keeps its steps.
        return Pictured(record, grey((record.width, record.height)), key, str(error))


class PictureDataset(SlotDataset[SampleT_co]):
    """Samples with pictures.

    Args:
        index: the images and their records.
        vision: where pictures come from; None decodes them.
        skip: see `read_pictured`.
    """

    def __init__(self, index: TarIndex, vision: VisionCache | None = None, *, skip: bool = False) -> None:
        self.index, self.vision, self.skip = index, vision, skip

    @property
    def is_far(self) -> bool:
        """See `SlotDataset.is_far`."""
        return self.index.is_far

    def expect(self, numbers: Sequence[int]) -> None:
        """See `SlotDataset.expect`."""
        self.index.expect(numbers, pictures=self.vision is None)

    def reading(self, vision: VisionCache | None) -> Self:
        """The same, with pictures out of a cache."""
        other = copy(self)
        other.vision = vision
        return other

    def pictured(self, row: int) -> Pictured[Image.Image] | Pictured[CachedPicture]:
        """Of a row of the index; of a picture out of the cache no byte is read, unless it is none."""
        if self.vision is None:
            return read_pictured(self.index, row, skip=self.skip)
        record, key = self.index.record(row), self.index.name(row)
        fault = self.vision.fault(record)
        if fault is not None and key != record.id:
            # The cache goes by bytes, which others may have as well: its message names one of them.
            fault = read_pictured(self.index, row, skip=True).fault or fault
        return Pictured(record, self.vision.picture(record), key, fault)
