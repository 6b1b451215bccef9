"""A trained emotion model, loaded from its folder: embeddings, emotion distributions, and what it says of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from emo_lightning.core.devices import usable_device
from emo_lightning.core.records import EMOTIONS, Prediction, intensity_level
from emo_lightning.inference.bundle import BUNDLE_FILE, check_bundle, read_bundle

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from emo_lightning.data.batches import ChatBatch


@dataclass(frozen=True)
class Explanation:
    """What the model says of one image."""

    prediction: Prediction
    """Triplet, boxes, emotion and intensity as the language model said them."""
    distribution: dict[str, float] | None
    """Emotion -> probability, of the probe on DES; None without a probe."""
    des: list[float]
    """The embedding, des_dim numbers."""

    def as_json(self) -> dict[str, object]:
        """The record's keys; `emotion` is as said, `emotion_scores` is the probe's distribution."""
        said = self.prediction.model_dump(mode="json")
        intensity = self.prediction.intensity
        level = intensity_level(intensity) if intensity is not None and 1 <= intensity <= 10 else None
        confidence = max(self.distribution.values()) if self.distribution else None
        return said | {"emotion_scores": self.distribution, "confidence": confidence, "intensity_level": level, "des": self.des}


class EmotionModel:
    """Backbone, DES head and probe, loaded; all frozen.

    Args:
        folder: of an experiment's `model` stage (it holds `emo.json`).
        device: torch device; None takes a GPU where there is one (the local rank's).

    Raises:
        SchemaError: no `emo.json`, or one with other keys.
        BackboneError: a part is none, is not whole, or was not made with the others.
        DeviceError: the device cannot be used.

    Examples:
        >>> from PIL import Image
        >>> from emo_lightning import EmotionModel
        >>> model = EmotionModel("runs/demo/model", device="cpu")
        >>> photo = Image.open("photo.jpg")
        >>> des = model.embed([photo])
        >>> des.shape == (1, model.des_dim)
        True
        >>> probabilities = model.distribution(des)
        >>> tuple(probabilities.shape)
        (1, 8)
        >>> explanation = model.explain(photo, "photo")
        >>> explanation.prediction.id
        'photo'
    """

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        import torch

        from emo_lightning.data.collate import Collator
        from emo_lightning.models import DESHead, LinearProbes
        from emo_lightning.models.backbone import BackboneConfig, load_frozen

        self.bundle = read_bundle(Path(folder))
        self.device = torch.device(usable_device(device))
        check_bundle(self.bundle, Path(folder) / BUNDLE_FILE)
        backbone = load_frozen(BackboneConfig(self.bundle.backbone, tuning="frozen"))
        self.backbone = backbone.to(self.device)
        self.head = DESHead.from_pretrained(self.bundle.head).requires_grad_(False).eval().to(self.device)
        self.probe = LinearProbes.from_pretrained(self.bundle.probe).to(self.device) if self.bundle.probe else None
        self.collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=backbone.packs)

    @property
    def des_dim(self) -> int:
        """Numbers of an embedding."""
        return self.head.des_dim

    def _batch(self, images: Sequence[Image.Image], *objectives: str) -> ChatBatch:
        """The same questions about each image, on the device; several where the backbone packs."""
        from emo_lightning.data.chat import objective
        from emo_lightning.data.collate import Question
        from emo_lightning.data.images import as_seen

        keys, *more = (objective(name).keys for name in objectives)
        batch = self.collate([Question(str(i), as_seen(image), keys, more=tuple(more)) for i, image in enumerate(images)])
        moved = {k: v.to(self.device) if hasattr(v, "to") else v for k, v in batch.items()}
        return cast("ChatBatch", moved)  # the same keys with the same kinds of values

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """DES of N images (paper section 3.3), each turned as its EXIF says: (N, des_dim) float32 on the CPU."""
        import torch

        batch = self._batch(images, self.bundle.features)
        with torch.no_grad():
            des: Tensor = self.head(*self.backbone.features(batch, self.head.num_layers))
            return des.float().cpu()

    def distribution(self, des: Tensor) -> Tensor | None:
        """Emotion probabilities of the probe, (N, 8) on the CPU in the order of `EMOTIONS`; None without a probe.

        Args:
            des: (N, des_dim), as `embed` gives them.
        """
        import torch

        if self.probe is None:
            return None
        with torch.no_grad():
            logits: Tensor = self.probe(des.to(self.device))[0]  # of the only probe that a saved one has
            return logits.softmax(-1).cpu()

    def explain(self, image: Image.Image, name: str, max_new_tokens: int = 256) -> Explanation:
        """Ask the model everything about one image.

        Args:
            image: any mode and size; turned as its EXIF says, as are the boxes.
            name: id of the prediction.
            max_new_tokens: of one answer.
        """
        from emo_lightning.data.chat import merge_predictions, parse_answer

        if self.collate.packed:
            batch = self._batch([image], *self.bundle.questions)
            read = self.backbone.read(batch)
            answers = [self.backbone.replies(read, n, max_new_tokens)[0] for n in range(len(self.bundle.questions))]
        else:
            batches = [self._batch([image], question) for question in self.bundle.questions]
            batch = batches[0]
            answers = [self.backbone.generate(one, max_new_tokens)[0] for one in batches]
        original, resized = batch["original_size"][0], batch["resized_size"][0]
        parts = [
            parse_answer(answer, id=name, original=original, resized=resized, codec=self.collate.codec) for answer in answers
        ]
        des = self.embed([image])
        scores = self.distribution(des)
        named = None if scores is None else {str(e): round(float(s), 6) for e, s in zip(EMOTIONS, scores[0], strict=True)}
        return Explanation(merge_predictions(parts), named, [float(x) for x in des[0]])
