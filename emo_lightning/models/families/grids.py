"""Pictures as grids of patches, merged `merge_size` × `merge_size` to a token: as inputs, as positions, and checked in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from emo_lightning.models.families.base import (
    CACHED_STATES,
    CachedPicture,
    Family,
    PixelLimits,
    Processor,
    VisionInputs,
    resize_to,
)
from emo_lightning.models.families.boxes import Size
from emo_lightning.models.families.resize import resized_size

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

PLACES_KEY = "places"
"""Key of a batch: the `PatchPlaces` of its pictures."""


@dataclass(frozen=True)
class Grids(Family):
    """Families whose image processor is Qwen2-VL's: what they do without a model.

    Positions of image tokens are (time, row, column) and computed by transformers from `mm_token_type_ids` (1 at image tokens, 0 at
    text) and `image_grid_thw`. Without the former it falls back to 1-D positions in silence.
    """

    window: int | None = 112
    """Side of the vision tower's windows in all published models, pixels; where one has others, it works its places out itself."""
    table: int | None = None
    """Rows, and columns, of its table of learned positions in all published models; None: it has none."""

    def pixel_limits(self, processor: Processor) -> PixelLimits:
        """See `Family.pixel_limits`."""
        size = dict(processor.image_processor.size)
        return PixelLimits(size["shortest_edge"], size["longest_edge"])

    def set_pixel_limits(self, processor: Processor, limits: PixelLimits) -> None:
        """See `Family.set_pixel_limits`."""
        resize_to(processor, shortest_edge=limits.lowest, longest_edge=limits.highest)

    def resized_size(self, processor: Processor, original: Size) -> Size:
        """See `Family.resized_size`."""
        limits, images = self.pixel_limits(processor), processor.image_processor
        factor = images.patch_size * images.merge_size
        return resized_size(*original, factor=factor, min_pixels=limits.lowest, max_pixels=limits.highest)

    def image_tokens(self, processor: Processor, resized: Size) -> int:
        """One for `merge_size` × `merge_size` patches."""
        columns, rows = self._token_grid(processor, resized)
        return columns * rows

    def _token_grid(self, processor: Processor, resized: Size) -> tuple[int, int]:
        """(columns, rows) of the tokens of a picture of that (width, height)."""
        token = processor.image_processor.patch_size * processor.image_processor.merge_size
        return resized[0] // token, resized[1] // token

    def _sizes(self, processor: Processor, grids: Tensor) -> list[Size]:
        """(width, height) of each picture, from (B, 3): time, rows and columns of its patches."""
        patch = processor.image_processor.patch_size
        return [(columns * patch, rows * patch) for _, rows, columns in grids.tolist()]

    def vision_inputs(self, processor: Processor, images: Sequence[Image.Image]) -> VisionInputs:
        """`pixel_values` (P, patch_dim) of P patches in all, bytes of one frame; `image_grid_thw` (B, 3), in patches; `PatchPlaces`."""
        from emo_lightning.models.families.patches import patches_of
        from emo_lightning.models.families.places import PatchPlaces, Tower

        patch, merge = processor.image_processor.patch_size, processor.image_processor.merge_size
        vision = patches_of(processor.image_processor, images)
        tensors: dict[str, object] = {name: vision[name] for name in ("pixel_values", "image_grid_thw")}
        grids = [(rows, columns) for _, rows, columns in vision["image_grid_thw"].tolist()]
        tensors[PLACES_KEY] = PatchPlaces.of(grids, Tower(self.window, patch, merge, self.table))
        sizes = self._sizes(processor, vision["image_grid_thw"])
        return VisionInputs(tensors, sizes, [self.image_tokens(processor, size) for size in sizes])

    def cached_inputs(self, processor: Processor, pictures: Sequence[CachedPicture]) -> VisionInputs:
        """The states, and `image_grid_thw` (B, 3)."""
        import torch

        sizes = [self.resized_size(processor, picture.size) for picture in pictures]
        tokens = [self.image_tokens(processor, size) for size in sizes]
        if tokens != (found := [len(picture.states) for picture in pictures]):
            msg = f"cached pictures have {found} tokens, by their sizes they should have {tokens}"
            raise ValueError(msg)
        patch = processor.image_processor.patch_size
        tensors: dict[str, object] = {
            CACHED_STATES[pictures[0].part]: torch.cat([picture.states for picture in pictures]),
            "image_grid_thw": torch.tensor([[1, height // patch, width // patch] for width, height in sizes]),
        }
        return VisionInputs(tensors, sizes, tokens)

    def patch_counts(self, batch: Mapping[str, object]) -> list[int]:
        """See `Family.patch_counts`."""
        grids = cast("Tensor", batch["image_grid_thw"])
        return [int(count) for count in grids.prod(1)]

    def position_inputs(self, input_ids: Tensor, image_token_id: int) -> dict[str, Tensor]:
        """`mm_token_type_ids` (B, T)."""
        return {"mm_token_type_ids": (input_ids == image_token_id).long()}

    def packed_positions(self, processor: Processor, length: int, image_at: int, resized: Size) -> Tensor:
        """(3, T): time, row and column, as transformers' `get_rope_index` counts them."""
        import torch

        columns, rows = self._token_grid(processor, resized)
        positions = torch.arange(length).expand(3, -1).clone()
        place, after = torch.arange(rows * columns), image_at + rows * columns
        positions[:, image_at:after] = image_at
        positions[1, image_at:after] += place // columns
        positions[2, image_at:after] += place % columns
        # The text goes on behind the larger side of the picture.
        positions[:, after:] += max(rows, columns) - rows * columns
        return positions

    def padded_positions(
        self, processor: Processor, mask: Tensor, image_at: Sequence[int], sizes: Sequence[Size]
    ) -> dict[str, Tensor]:
        """`positions` (3, B, T), 0 at padding."""
        import torch

        positions = torch.zeros(3, *mask.shape, dtype=torch.int64)
        for row, (tokens, at, resized) in enumerate(zip(mask.bool(), image_at, sizes, strict=True)):
            positions[:, row, tokens] = self.packed_positions(processor, int(tokens.sum()), at, resized)
        return {"positions": positions}

    def check_images(self, processor: Processor, batch: Mapping[str, object]) -> None:
        """See `Family.check_images`."""
        if "lengths" in batch:
            self._check_packed(processor, batch)
        else:
            self._check_padded(processor, batch)
        self._check_places(batch)

    def _check_padded(self, processor: Processor, batch: Mapping[str, object]) -> None:
        if "mm_token_type_ids" not in batch:
            msg = f"batch lacks 'mm_token_type_ids': without it {self.title} uses 1-D positions for images; pass the collator's batch"
            raise ValueError(msg)
        inputs = self.model_inputs(batch)
        expected = self._image_tokens(processor, inputs["image_grid_thw"])
        for name, found in (
            ("input_ids", int((inputs["input_ids"] == self.image_token_id(processor)).sum())),
            ("mm_token_type_ids", int((inputs["mm_token_type_ids"] == 1).sum())),
        ):
            if found != expected:
                msg = f"batch[{name!r}] marks {found} image tokens, the images have {expected}: was the sequence cut?"
                raise ValueError(msg)

    def _check_places(self, batch: Mapping[str, object]) -> None:
        from emo_lightning.models.families.places import PatchPlaces

        found, grids = batch.get(PLACES_KEY), cast("Tensor", batch["image_grid_thw"])
        if isinstance(found, PatchPlaces) and found.pictures.lengths != (patches := tuple(grids.prod(-1).tolist())):
            msg = f"batch[{PLACES_KEY!r}] is of pictures of {found.pictures.lengths} patches, batch['image_grid_thw'] of {patches}"
            raise ValueError(msg)

    def _check_packed(self, processor: Processor, batch: Mapping[str, object]) -> None:
        ids, places, grids = (cast("Tensor", batch[name]) for name in ("input_ids", "image_at", "image_grid_thw"))
        lengths = cast("list[int]", batch["lengths"])
        if ids.shape[1] != sum(lengths):
            msg = f"batch['input_ids'] has {ids.shape[1]} tokens, its samples {sum(lengths)}: was the sequence cut?"
            raise ValueError(msg)
        marked = (ids[0] == self.image_token_id(processor)).nonzero()[:, 0]
        if len(marked) != (expected := self._image_tokens(processor, grids)):
            msg = f"batch['input_ids'] marks {len(marked)} image tokens, the images have {expected}: was the sequence cut?"
            raise ValueError(msg)
        if not marked.equal(places):
            msg = "batch['image_at'] names other places than those of the image tokens in batch['input_ids']"
            raise ValueError(msg)

    def _image_tokens(self, processor: Processor, grids: Tensor) -> int:
        return sum(self.image_tokens(processor, size) for size in self._sizes(processor, grids))
