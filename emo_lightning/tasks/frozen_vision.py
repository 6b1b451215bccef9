"""A frozen vision tower sees every image once: what left it is kept in a cache, which loaders read in place of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Trainer
from PIL import Image
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from emo_lightning.core.disk import free_bytes, gigabytes, require_room
from emo_lightning.core.errors import InputError
from emo_lightning.core.fingerprints import HASHES
from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.stores import is_remote
from emo_lightning.core.terminal import say
from emo_lightning.data.module import DataModule
from emo_lightning.data.pictures import PictureDataset, read_pictured
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.data.vision_cache import VisionCache, VisionKey, VisionWriter, vision_folder
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.families import BackbonePart, Family, Processor
from emo_lightning.models.vision_facts import probe_inputs, vision_facts
from emo_lightning.tasks.collectives import objects_of_all_ranks

TOWER_BATCH_SIZE = 8
"""That pass the tower together. With fewer, a library may choose another order of summation than for the rows of a training: one that is
left over is filled up."""


class FrozenVision:
    """The cache of one task's vision tower; opened when the first loader asks."""

    def __init__(self) -> None:
        self._cache: VisionCache | None = None
        self._like = torch.empty(0, 0)
        """States of one token, for their width and dtype."""

    def pictures(self, index: TarIndex, data: DataModule[Any], trainer: Trainer, backbone: Backbone) -> VisionCache | None:
        """See `ReadsImages.pictures`.

        Raises:
            InputError: the disk has not the room for what is copied or computed, or the tower is split among ranks.
            ShardError: an image's bytes are not those of its record.
        """
        part = backbone.config.cached_part
        if part is None:
            if backbone.config.vision_cache != "off":
                warn_once("model.backbone.vision_cache: the vision tower learns, so that nothing of it is kept")
            return None
        cache = self._opened(part, trainer, backbone)
        images = index.hashes()
        cache.fetch(images)
        # One list for all ranks: others may be writing at this moment.
        missing = trainer.strategy.broadcast(cache.missing(images))
        if missing:
            self._announce(cache, index.take(missing), len(set(images)), backbone, said=trainer.is_global_zero)
            trainer.strategy.barrier()
            self._leave_out(cache, index, self._fill(cache, index.take(missing), part, data, trainer, backbone), backbone)
            trainer.strategy.barrier()
            cache.look()
            # What other machines have computed.
            cache.fetch(images)
            if lost := cache.missing(images):
                msg = f"{cache.folder}: {len(lost)} images that other ranks have written are not there: all of them must see the folder"
                raise InputError(msg)
        faults = _check_bytes(index, cache, set(missing), skip=data.skip) if trainer.is_global_zero else {}
        if data.skip:
            self._leave_out(cache, index, faults, backbone)
        return cache

    def _leave_out(self, cache: VisionCache, index: TarIndex, faults: Mapping[str, str], backbone: Backbone) -> None:
        """Images that any rank could not read, SHA-256 -> why, are left out by all."""
        found = {image: fault for one in objects_of_all_ranks(dict(faults)) for image, fault in one.items()}
        sizes = dict(zip(index.hashes(), index.sizes().tolist(), strict=True)) if found else {}
        for image, fault in found.items():
            width, height = sizes[image]
            resized = backbone.family.resized_size(backbone.processor, (width, height))
            tokens = backbone.family.image_tokens(backbone.processor, resized)
            cache.leave_out(image, fault, self._like.new_zeros(tokens, self._like.shape[1]))

    def _opened(self, part: BackbonePart, trainer: Trainer, backbone: Backbone) -> VisionCache:
        if self._cache is None:
            tower = backbone.family.module(backbone.base, backbone.family.vision_tower)
            if any(isinstance(weight, DTensor) for weight in tower.parameters()):
                msg = "model.backbone.vision_cache: found the strategy fsdp, which splits the tower; allowed there: off (or the strategy ddp)"
                raise InputError(msg)
            key, self._like = vision_key(part, trainer, backbone)
            setting = backbone.config.vision_cache
            self._cache = VisionCache(vision_folder(setting), key, setting if is_remote(setting) else None, self._like)
            if trainer.is_global_zero:
                self._cache.remove_damaged()
            trainer.strategy.barrier()
        return self._cache

    def _announce(self, cache: VisionCache, missing: TarIndex, images: int, backbone: Backbone, *, said: bool) -> None:
        """Say what is computed and how much room it takes, before it is."""
        family, processor = backbone.family, backbone.processor
        sizes = [family.resized_size(processor, (width, height)) for width, height in missing.sizes().tolist()]
        needed = sum(family.image_tokens(processor, size) for size in sizes) * self._like.nbytes
        if said:
            say(
                f"vision cache {cache.folder}: {len(missing)} of {images} images pass the vision tower now; that takes {gigabytes(needed)}, "
                f"{gigabytes(free_bytes(cache.folder))} are free"
            )
        require_room(
            cache.folder,
            needed,
            "free some, name another folder by model.backbone.vision_cache, or lower model.backbone.max_pixels",
        )

    def _fill(
        self,
        cache: VisionCache,
        index: TarIndex,
        part: BackbonePart,
        data: DataModule[Any],
        trainer: Trainer,
        backbone: Backbone,
    ) -> dict[str, str]:
        """This rank's share of the images.

        Returns:
            Those that cannot be read, SHA-256 -> why (`data.on_error: skip`).
        """
        family, base = backbone.family, backbone.base
        plan = EpochBatches(
            len(index), TOWER_BATCH_SIZE, seed=0, rank=trainer.global_rank, world_size=trainer.world_size, shuffle=False
        )
        loader = data.loader_of(_Pictures(index, skip=data.skip), plan, _Prepared(family, backbone.processor))
        faults: dict[str, str] = {}
        tower = family.module(base, family.vision_tower)
        with VisionWriter(cache) as writer, _as_in_training(trainer, tower):
            for batch in loader:
                faults |= batch.faults
                inputs = move_data_to_device(batch.inputs, trainer.strategy.root_device)
                states = family.picture_states(base, inputs, part).cpu()
                for sha256, one in zip(batch.images, states.split(batch.tokens), strict=False):
                    if sha256 is not None:
                        writer.append(sha256, one)
        return faults


def vision_key(part: BackbonePart, trainer: Trainer, backbone: Backbone) -> tuple[VisionKey, Tensor]:
    """What the states that leave a part depend on, and (1, width) of one token."""
    inputs = move_data_to_device(probe_inputs(backbone).tensors, trainer.strategy.root_device)
    with _as_in_training(trainer, backbone.family.module(backbone.base, backbone.family.vision_tower)):
        states = backbone.family.picture_states(backbone.base, inputs, part)
        return VisionKey(part, vision_facts(backbone, part, states)), states[:1].cpu()


@contextmanager
def _as_in_training(trainer: Trainer, tower: nn.Module) -> Iterator[None]:
    """In the precision of the Trainer, without gradients, and without dropout: a frozen tower has none in training either."""
    modes = {module: module.training for module in tower.modules()}
    tower.eval()
    try:
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_bytes(index: TarIndex, cache: VisionCache, seen: set[int], *, skip: bool) -> dict[str, str]:
    """Compare the images that nobody decodes with their records, once for what the tars hold.

    Returns:
        With `skip` those that are another than their record says: SHA-256 -> why.

    Raises:
        ShardError: without `skip`, one is.
    """
    faults: dict[str, str] = {}
    if not index.check_sha256:
        return faults
    HASHES.keep_beside(cache.folder.parent / "content.json")
    content = index.content
    HASHES.save()
    if not cache.is_checked(content):
        images = index.hashes()
        for row in range(len(index)):
            if row in seen:
                continue
            try:
                index.image_bytes(row)
            except ShardError as error:
                if not skip:
                    raise
                faults[images[row]] = str(error)
        if not faults:
            cache.mark_checked(content)
    return faults


class _Picture(NamedTuple):
    """An image, and what it goes by; None of one that only keeps ranks in step."""

    sha256: str | None
    image: Image.Image
    faults: Mapping[str, str]
    """SHA-256 -> why, if it cannot be read."""


class _Pictures(PictureDataset[_Picture]):
    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> _Picture:
        record, image, _, fault = read_pictured(self.index, slot.index, skip=self.skip)
        nameless = slot.filler or fault is not None
        return _Picture(None if nameless else record.sha256, image, {} if fault is None else {record.sha256: fault})


class _Batch(NamedTuple):
    """Images as the tower takes them; more than have names, so that there are `TOWER_BATCH_SIZE`."""

    images: list[str | None]
    inputs: dict[str, object]
    tokens: list[int]
    faults: dict[str, str]
    """SHA-256 -> why, of those that cannot be read."""


class _Prepared:
    """Collates pictures."""

    def __init__(self, family: Family, processor: Processor) -> None:
        self.family, self.processor = family, processor

    def __call__(self, pictures: list[_Picture]) -> _Batch:
        """One batch."""
        whole = [picture.image for picture in pictures] + [pictures[0].image] * (TOWER_BATCH_SIZE - len(pictures))
        vision = self.family.vision_inputs(self.processor, whole)
        faults = {image: fault for picture in pictures for image, fault in picture.faults.items()}
        return _Batch([picture.sha256 for picture in pictures], vision.tensors, vision.tokens, faults)
