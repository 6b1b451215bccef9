"""A trained emotion model, loaded from its folder: embeddings, emotion distributions, and what it says of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from emo_lightning.core.devices import usable_device
from emo_lightning.core.errors import InputError, check_count
from emo_lightning.inference.bundle import BUNDLE_FILE, bundle_folder, check_bundle, check_bundle_pixels, read_bundle
from emo_lightning.inference.explaining import Explaining
from emo_lightning.inference.pictures import ImageLike, as_list, as_picture, name_of
from emo_lightning.inference.results import Explanation, Unlike

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from emo_lightning.core.records import Box, Mask
    from emo_lightning.data.batches import ChatBatch
    from emo_lightning.inference.explaining import OnPartial
    from emo_lightning.models.label_scoring import LabelScoring
    from emo_lightning.models.spread import SeenPictures

    Masks = Callable[[Image.Image, Sequence[Box]], Sequence[Mask | None]]

__all__ = ["EmotionModel", "Explanation"]

BATCH_SIZE = 16
"""Images at a time, where nobody says."""


def _batches(count: int, batch_size: int) -> list[range]:
    """Positions of so many images, batch by batch."""
    check_count("batch_size", batch_size)
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)]


class EmotionModel:
    """Backbone, DES head, probe, affect head and the spread of what they were trained on, loaded; all frozen.

    Args:
        folder: that `emo export` wrote, or of an experiment's `model` stage (it holds `emo.json`).
        device: torch device; None takes a GPU where there is one (the local rank's).

    Raises:
        SchemaError: no `emo.json`, or one with other keys.
        BackboneError: a part is none, is not whole, or was not made with the others, or at another size of pictures.
        DeviceError: the device cannot be used.

    Examples:
        >>> from emo_lightning import EmotionModel
        >>> model = EmotionModel.from_pretrained("runs/demo/model", device="cpu")
        >>> des = model.embed(["photo.jpg"])
        >>> des.shape == (1, model.des_dim)
        True
        >>> tuple(model.distribution(des).shape)
        (1, 8)
        >>> (explanation,) = model.explain(["photo.jpg"])
        >>> explanation.id
        'photo'
        >>> explanation.probe.confidence == explanation.probe.distribution[explanation.probe.emotion]
        True
        >>> explanation.agreement in ("agree", "differ", "no emotion said")
        True
    """

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        import torch

        from emo_lightning.data.collate import Collator
        from emo_lightning.inference.calibration import ProbeCalibration
        from emo_lightning.models import DESHead, LinearProbes
        from emo_lightning.models.affect import AffectHead
        from emo_lightning.models.backbone_config import BackboneConfig
        from emo_lightning.models.loading import load_frozen
        from emo_lightning.models.spread import TrainingSpread

        self.folder = Path(folder)
        self.bundle = read_bundle(self.folder)
        self.device = torch.device(usable_device(device))
        check_bundle(self.bundle, self.folder / BUNDLE_FILE)
        backbone = load_frozen(BackboneConfig(self.bundle.backbone, tuning="frozen"))
        check_bundle_pixels(self.bundle, backbone.pixels, self.folder / BUNDLE_FILE)
        self.backbone = backbone.to(self.device)
        self.head = DESHead.from_pretrained(self.bundle.head).requires_grad_(False).eval().to(self.device)
        probe = self.bundle.probe
        self.probe = LinearProbes.from_pretrained(probe).to(self.device) if probe else None
        affect = self.bundle.affect
        self.affect = AffectHead.from_pretrained(affect).requires_grad_(False).to(self.device) if affect else None
        self.calibration = ProbeCalibration.of(self.folder, probe)
        spread = self.bundle.spread
        self.spread = TrainingSpread.from_pretrained(spread).to(self.device) if spread else None
        self.collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=backbone.packs)
        self.explaining = Explaining(self)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | None = None, *, revision: str | None = None, token: str | None = None
    ) -> EmotionModel:
        """Load a folder, or what was published under an id of the Hugging Face hub.

        Args:
            name: folder, or id as `owner/name`; a folder of that name comes first.
            device: torch device; None takes a GPU where there is one.
            revision: branch, tag or commit of the hub's.
            token: for a private one; None takes the one that the hub's client has.

        Raises:
            SchemaError: as the constructor; also of an id that holds no emotion model.
            HubError: the hub cannot be reached, and nothing of the id is in the local cache.
        """
        return cls(bundle_folder(name, revision, token), device)

    def save_pretrained(self, folder: str | Path, *, merge: bool = True) -> None:
        """Write all parts into one folder that needs nothing else: see `inference.folder.write_folder`.

        Args:
            folder: missing or empty; it is there when it is whole.
            merge: fold the adapter into its base model; else the adapter is kept beside its base.

        Raises:
            InputError: `folder` is a file or holds something, or a kept part is not in safetensors.
            BackboneError: the parts do not belong together.
        """
        from emo_lightning.inference.folder import write_folder

        write_folder(self.bundle, Path(folder), merge=merge, calibration=self.calibration, origin=self.folder)

    @property
    def des_dim(self) -> int:
        """Numbers of an embedding."""
        return self.head.des_dim

    def batch(self, images: Sequence[Image.Image], *objectives: str) -> ChatBatch:
        """The same questions about each image, on the device; several where the backbone packs."""
        from emo_lightning.data.chat import objective
        from emo_lightning.data.collate import ImageQuestion

        keys, *more = (objective(name).keys for name in objectives)
        batch = self.collate([ImageQuestion(str(i), image, keys, more=tuple(more)) for i, image in enumerate(images)])
        moved = {k: v.to(self.device) if hasattr(v, "to") else v for k, v in batch.items()}
        return cast("ChatBatch", moved)  # the same keys with the same kinds of values

    def embed(self, images: ImageLike | Sequence[ImageLike], batch_size: int = BATCH_SIZE) -> Tensor:
        """DES of N images (paper section 3.3), each turned as its EXIF says: (N, des_dim) float32 on the CPU.

        Args:
            images: paths, addresses, bytes, arrays or PIL images, in any mixture.
            batch_size: images at a time.

        Raises:
            InputError: an image cannot be had, or is none; names it. Or `batch_size` is below 1.
        """
        import torch

        given = as_list(images)
        rows = [self._embed([as_picture(given[n], f"image {n}") for n in here]) for here in _batches(len(given), batch_size)]
        return torch.cat(rows) if rows else torch.zeros(0, self.des_dim)

    def _embed(self, pictures: Sequence[Image.Image]) -> Tensor:
        import torch

        from emo_lightning.models.sound import check_rows

        with torch.no_grad():
            des: Tensor = self.head(*self.backbone.features(self.batch(pictures, self.bundle.features), self.head.num_layers))
            check_rows(des)
            return des.float().cpu()

    def seen_at_once(self, pictures: Sequence[Image.Image]) -> list[tuple[NDArray[np.float32], Unlike | None]]:
        """The embedding of each picture of one batch, (des_dim,), and how far it is from the training pictures, of one reading.

        Args:
            pictures: as `as_picture` gives them.
        """
        if self.spread is None:
            return [(row, None) for row in self._embed(pictures).numpy()]
        seen = self.look(pictures)
        return list(zip(seen.des.float().cpu().numpy(), self.unlike_of(seen) or [], strict=True))

    def look(self, pictures: Sequence[Image.Image]) -> SeenPictures:
        """What a `TrainingSpread` is fitted to, and measures.

        Args:
            pictures: as `as_picture` gives them, one batch.

        Raises:
            FamilyError: the backbone is of a family whose patches are not told apart.
        """
        import torch

        from emo_lightning.models.sound import check_rows

        batch = self.batch(pictures, self.bundle.features)
        with torch.no_grad(), self.backbone.watching_tower() as tower:
            des: Tensor = self.head(*self.backbone.features(batch, self.head.num_layers))
        check_rows(des)
        return self.seen(batch, des, tower)

    def seen(self, batch: ChatBatch, des: Tensor, tower: Sequence[Tensor]) -> SeenPictures:
        """As `look`, of a batch that has been read.

        Args:
            batch: of one question or several about each picture.
            des: (B, des_dim).
            tower: what was kept while it was read (`Backbone.watching_tower`).
        """
        import torch

        from emo_lightning.models.spread import SeenPictures

        family = self.backbone.family
        counts = family.patch_counts(batch)
        (states,) = tower
        vision = torch.stack([one.float().mean(0) for one in states.split(counts)])
        return SeenPictures(des, vision, cast("Tensor", batch[family.pixels]), counts)  # type: ignore[literal-required] # of every family

    def unlike(self, images: ImageLike | Sequence[ImageLike], batch_size: int = BATCH_SIZE) -> list[Unlike] | None:
        """How far each image is from what the model was trained on; None where the folder does not hold that.

        Args:
            images: as `embed`.
            batch_size: images at a time.

        Raises:
            InputError: an image cannot be had, or is none; names it. Or `batch_size` is below 1.
        """
        given, found = as_list(images), list[Unlike]()
        batches = _batches(len(given), batch_size)
        if self.spread is None:
            return None
        for here in batches:
            found += self.unlike_of(self.look([as_picture(given[n], f"image {n}") for n in here])) or []
        return found

    def unlike_of(self, seen: SeenPictures) -> list[Unlike] | None:
        """As `unlike`, of pictures that have been looked at."""
        if self.spread is None:
            return None
        about = self.spread.threshold, self.spread.false_alarms
        return [Unlike(score, *about) for score in self.spread(seen).tolist()]

    def distribution(self, des: Tensor) -> Tensor | None:
        """Emotion probabilities of the probe, (N, 8) on the CPU in the order of `EMOTIONS`; None without a probe.

        They are as the probe gives them: no temperature is applied.

        Args:
            des: (N, des_dim), as `embed` gives them.
        """
        import torch

        if self.probe is None:
            return None
        with torch.no_grad():
            logits: Tensor = self.probe(des.to(self.device))[0]  # of the only probe that a saved one has
            return logits.softmax(-1).cpu()

    def points(self, des: Tensor) -> list[dict[str, float]] | None:
        """Valence, arousal and dominance of N embeddings, each about -1 to 1, of each those that were learnt; None without an affect head.

        Args:
            des: (N, des_dim), as `embed` gives them.
        """
        return None if self.affect is None else self.affect.said(des)

    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        ids: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        batch_size: int = BATCH_SIZE,
        masks: Masks | None = None,
        label_scoring: LabelScoring = "plain",
        on_partial: Mapping[int, OnPartial] | None = None,
    ) -> list[Explanation]:
        """Ask the model everything about each image; each is read once for all answers, the scores and the embedding.

        Args:
            images: as `embed`; boxes are in pixels of the upright image.
            ids: of the predictions; None: stems of file names, addresses, or the images' numbers.
            max_new_tokens: of one answer.
            batch_size: images at a time.
            masks: gives a mask for each box of a picture, for example `masks_of` of a SAM that `data_prep.grounding` has loaded; None
                leaves them out.
            label_scoring: `gated` asks for the polarity besides, weighs the words' distribution by it, and takes its most probable emotion
                for the one that is said (`models.label_scoring`).
            on_partial: number of an image -> is told what is known of it so far, once it is read and after every token that is written
                (`inference.unfinished` marks what is not finished).

        Raises:
            InputError: an image cannot be had, or is none; names it. Or its labels cannot be scored so, there is not one id for each image,
                or `batch_size` or `max_new_tokens` is below 1.
        """
        self.explaining.check_scoring(label_scoring)
        check_count("max_new_tokens", max_new_tokens)
        given = as_list(images)
        batches = _batches(len(given), batch_size)
        names = [name_of(image, n) for n, image in enumerate(given)] if ids is None else list(ids)
        if len(names) != len(given):
            msg = f"{len(names)} ids for {len(given)} images; expected one each"
            raise InputError(msg)
        found: list[Explanation] = []
        for here in batches:
            pictures = [as_picture(given[n], f"image {names[n]}") for n in here]
            listeners = {n - here.start: one for n, one in (on_partial or {}).items() if n in here}
            called = [names[n] for n in here]
            explained = self.explaining.explain(
                pictures, called, max_new_tokens, gated=label_scoring == "gated", on_partial=listeners
            )
            if masks is not None:
                explained = [
                    one.with_masks(masks(picture, [region.box for region in one.said.regions])) if one.said.regions else one
                    for one, picture in zip(explained, pictures, strict=True)
                ]
            found += explained
        return found
