"""What a data module must know of the task that reads from it.

The task offers it by these methods; the data module checks at `setup` that they are there, asks when it makes its loaders, and
is written to by nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from emo_lightning.data.batches import PairBatch, SeenBatch
from emo_lightning.data.embeddings import EmbeddingDataset
from emo_lightning.models.families import Processor

if TYPE_CHECKING:
    from PIL import Image

    from emo_lightning.core.records import Record
    from emo_lightning.data.module import DataModule
    from emo_lightning.data.tar_index import TarIndex
    from emo_lightning.data.vision_cache import VisionCache


class PairSample(NamedTuple):
    """An image and its record, which has a description."""

    image: Image.Image
    record: Record
    filler: bool
    """It only fills its place, and counts nowhere."""
    key: str
    """Id of the record; of an image that cannot be read what it is counted by (`TarIndex.name`)."""
    fault: str | None = None
    """Why the image cannot be read; it is a filler then."""


@dataclass(frozen=True)
class BackboneInputs:
    """What decides how images and questions become the inputs of a backbone.

    Args:
        processor: of the backbone, with the pixel limits set.
        model_type: of the backbone's config; it decides the coordinates of boxes.
        packs: whether the backbone takes samples that are packed into one row.
    """

    processor: Processor
    model_type: str
    packs: bool = False


@runtime_checkable
class ReadsImages(Protocol):
    """A task whose backbone reads images and questions (`LabelledDataModule`)."""

    def pictures(self, index: TarIndex, data: DataModule[Any]) -> VisionCache | None:
        """What a frozen vision tower has made of all images of an index, or None where it runs in every step.

        Asked when a loader is made, by all ranks at once; they compute together what the cache lacks.

        Args:
            index: the images.
            data: the data module, which makes the loader for what is computed.
        """
        ...

    def backbone_inputs(self) -> BackboneInputs:
        """Of the loaded backbone; asked after `configure_model`."""
        ...


@runtime_checkable
class LearnsAnswers(ReadsImages, Protocol):
    """A task that learns to answer (`ConversationDataModule`)."""

    def wants_distributions(self) -> bool:
        """Whether batches must say where each answer names its emotion, and the annotated distribution over the eight."""
        ...


@runtime_checkable
class LearnsByReward(ReadsImages, Protocol):
    """A task that learns from what its own replies are worth (`RolloutDataModule`)."""

    def wants_images(self) -> bool:
        """Whether batches must hold the pictures, as a reward looks at them again."""
        ...


@runtime_checkable
class AsksQuestions(ReadsImages, Protocol):
    """A task that takes every image once (`QuestionDataModule`)."""

    def longest_first(self) -> bool:
        """Whether images with many tokens come first, so that the rows of a batch are about equally long."""
        ...

    def also_asks(self) -> Sequence[str]:
        """Objectives that each image is asked besides those of the data module: their answers are scored, not written."""
        ...

    def done(self, name: str) -> Collection[str]:
        """Ids of the set `name` that a resumed run need not repeat; final after the task's own `setup`."""
        ...


@runtime_checkable
class ReadsPairs(Protocol):
    """A task that learns from images and what their records say (`PairDataModule`)."""

    def collate(self, samples: Sequence[PairSample]) -> PairBatch | SeenBatch:
        """One batch."""
        ...

    def through_backbone(self) -> bool:
        """Whether a backbone's processor takes the pictures, which refuses those that are too long."""
        ...


@runtime_checkable
class ReadsFeatures(Protocol):
    """A task that reads cached features (`FeatureDataModule`)."""

    def embeddings(self) -> Mapping[str, EmbeddingDataset]:
        """Sets that the task has embedded: they are read from memory, as one batch, in place of the caches of these names."""
        ...
