"""What a family is given and gives: parts of a model, pictures as its inputs, and the parts of transformers' processors that are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from emo_lightning.core.errors import InputError
from emo_lightning.models.families.boxes import Size

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

BackbonePart = Literal["vision", "merger", "language"]
BACKBONE_PARTS: tuple[BackbonePart, ...] = ("vision", "merger", "language")
"""What may learn or stay frozen: the vision tower, what joins it to the language model, and the language model."""


class FamilyError(InputError):
    """A model of a family that this project does not know, or a picture that the family refuses."""


class ImageProcessor(Protocol):
    """The part of transformers' image processors that is used here."""

    backend: str
    """`torchvision` or `pil`."""
    size: Mapping[str, int]
    do_resize: bool
    resample: int
    patch_size: int
    merge_size: int
    temporal_patch_size: int
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: float | Sequence[float]
    image_std: float | Sequence[float]

    def __call__(
        self, images: Sequence[Image.Image | Tensor], *, return_tensors: str, **options: object
    ) -> Mapping[str, Tensor]:
        """Pixel tensors of pictures, and where each begins; options are the family's own."""
        ...


class Processor(Protocol):
    """The part of transformers' `ProcessorMixin` that is used here; its own attributes are set at run time and have no types."""

    image_processor: ImageProcessor
    tokenizer: PreTrainedTokenizerBase

    def apply_chat_template(self, conversation: list[dict[str, object]], *, tokenize: bool, add_generation_prompt: bool) -> str:
        """The conversation as text with its special tokens."""
        ...

    def batch_decode(self, sequences: Tensor, *, skip_special_tokens: bool) -> list[str]:
        """Token ids (B, T) as texts."""
        ...

    def save_pretrained(self, save_directory: str | Path) -> object:
        """Write it into a folder."""
        ...


class PixelLimits(NamedTuple):
    """Smallest and largest area, in pixels, that an image is resized to."""

    lowest: int
    highest: int


CACHED_STATES: Mapping[BackbonePart, str] = {"vision": "tower_states", "merger": "picture_states"}
"""Keys of a batch whose pictures come out of a cache, by the last part that they have passed: (image tokens, width)."""


class CachedPicture(NamedTuple):
    """A picture that a frozen part of the model has seen already.

    Args:
        size: (width, height) of the picture as it is stored, upright.
        states: (image tokens, width) that left the part.
        part: the last one that it has passed: the vision tower, or the merger behind it.
    """

    size: Size
    states: Tensor
    part: BackbonePart


class VisionInputs(NamedTuple):
    """The pictures of a batch as the model takes them.

    Args:
        tensors: inputs of the model that stand for pictures, by their names; what is no tensor moves to a device by its own `to`.
        sizes: (width, height) of each picture after resizing.
        tokens: how many tokens each picture takes in its sequence.
    """

    tensors: dict[str, object]
    sizes: list[Size]
    tokens: list[int]


class Work(NamedTuple):
    """Floating-point operations of one part of a model in a forward pass: a product and a sum are two."""

    weights: float
    """Products with weights."""
    attention: float
    """Products of queries, keys and values."""


def resize_to(processor: Processor, **sides: int) -> None:
    """Set the sizes of an image processor, by its own names for them."""
    images = processor.image_processor
    size = {**dict(images.size), **sides}
    # A class of transformers' own, or a plain dict before there was one.
    images.size = size if isinstance(images.size, dict) else type(images.size)(**size)


def token_id(processor: Processor, token: str) -> int:
    """Id of a token.

    Raises:
        FamilyError: the tokenizer has none of that name.
    """
    found = processor.tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int):
        msg = f"the tokenizer has no token {token!r}"
        raise FamilyError(msg)
    return found
