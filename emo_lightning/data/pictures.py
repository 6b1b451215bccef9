"""What the datasets over tars share that give pictures: each decoded, or out of a cache of the vision tower."""

from __future__ import annotations

from copy import copy
from typing import Self, TypeVar

from PIL import Image

from emo_lightning.core.records import Record
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.models.families.base import CachedPicture

SampleT_co = TypeVar("SampleT_co", covariant=True)


class PictureDataset(SlotDataset[SampleT_co]):
    """Samples with pictures.

    Args:
        index: the images and their records.
        vision: where pictures come from; None decodes them.
    """

    def __init__(self, index: TarIndex, vision: VisionCache | None = None) -> None:
        self.index, self.vision = index, vision

    def reading(self, vision: VisionCache | None) -> Self:
        """The same, with pictures out of a cache."""
        other = copy(self)
        other.vision = vision
        return other

    def record_and_picture(self, row: int) -> tuple[Record, Image.Image | CachedPicture]:
        """Of a row of the index; of a picture out of the cache no byte is read."""
        if self.vision is None:
            return self.index.sample(row)
        record = self.index.record(row)
        return record, self.vision.picture(record)
