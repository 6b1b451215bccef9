"""Grounding DINO and SAM of transformers: weights by hub name or local folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoImageProcessor, AutoModelForZeroShotObjectDetection, AutoTokenizer, SamModel

from data_prep.grounding.base import MIN_STORED_SCORE
from data_prep.grounding.detect_segment import Detector, ModelGrounder, Segmenter
from data_prep.local_models.checkpoints import complete, pretrained

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection, PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor


class TransformersDetector(Detector):
    """A Grounding DINO of transformers.

    Args:
        model: `GroundingDinoForObjectDetection`.
        image_processor: of the same checkpoint.
        tokenizer: of the same checkpoint.
        device: moved there.
    """

    def __init__(
        self,
        model: GroundingDinoForObjectDetection,
        image_processor: BaseImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        device: str = "cpu",
    ) -> None:
        super().__init__(image_processor, device)
        # transformers wraps `to`, and its type is lost.
        self.model = model.to(device).eval()  # type: ignore[arg-type]
        self.tokenizer = tokenizer

    def forward(self, pixels: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Detector.forward`."""
        tokens = self.tokenizer(texts, padding=True, return_token_type_ids=True, return_tensors="pt").to(self.device)
        outputs = self.model(pixel_values=pixels, **tokens)
        return outputs.logits, outputs.pred_boxes


class TransformersSegmenter(Segmenter):
    """A SAM of transformers.

    Args:
        model: `SamModel`.
        image_processor: of the same checkpoint.
        device: moved there.
    """

    def __init__(self, model: SamModel, image_processor: BaseImageProcessor, device: str = "cpu") -> None:
        super().__init__(image_processor, device)
        # transformers wraps `to`, and its type is lost.
        self.model = model.to(device).eval()  # type: ignore[arg-type]
        # SAM was trained with 1e-5 here; transformers' configurations say 1e-6, and masks differ by some pixels.
        for module in self.model.mask_decoder.transformer.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """See `Segmenter.encode`."""
        embeddings: torch.Tensor = self.model.get_image_embeddings(pixels)
        return embeddings

    def decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Segmenter.decode`."""
        outputs = self.model(image_embeddings=embedding, input_boxes=boxes[None], multimask_output=True)
        return outputs.pred_masks[0], outputs.iou_scores[0]


def load(detector: str, segmenter: str | None, *, device: str = "cpu", threshold: float = MIN_STORED_SCORE) -> ModelGrounder:
    """Load by hub name, `name@revision` or local folder.

    Raises:
        CheckpointError: no such model, or a checkpoint that leaves weights unset; they would be random, silently.
    """
    found = TransformersDetector(
        complete(AutoModelForZeroShotObjectDetection.from_pretrained, detector),
        pretrained(AutoImageProcessor.from_pretrained, detector, backend="pil"),
        pretrained(AutoTokenizer.from_pretrained, detector),
        device,
    )
    if segmenter is None:
        return ModelGrounder(found, None, threshold)
    return ModelGrounder(found, load_segmenter(segmenter, device), threshold)


def load_segmenter(name: str, device: str = "cpu") -> TransformersSegmenter:
    """A SAM alone; names and errors as `load`."""
    return TransformersSegmenter(
        complete(SamModel.from_pretrained, name),
        pretrained(AutoImageProcessor.from_pretrained, name, backend="pil"),
        device,
    )
