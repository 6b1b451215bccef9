"""Grounding DINO + SAM through transformers: phrase → boxes → masks (paper section 3.1.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from pycocotools import mask as coco
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, SamModel, SamProcessor

from data_prep.errors import PrepError
from data_prep.grounding.base import STORED_FROM, rank
from emo_lightning.schema import GroundedObject, Mask

if TYPE_CHECKING:
    from PIL import Image


class GroundingError(PrepError, RuntimeError):
    """The models cannot be used."""


class TransformersGrounder:
    """Boxes by a zero-shot detector, masks by SAM.

    Args:
        detector, detector_processor: a Grounding DINO.
        segmenter, segmenter_processor: a SAM, or None twice for boxes alone.
        device: for both.
        threshold: candidates with a lower box score are dropped.
    """

    def __init__(
        self,
        detector: Any,
        detector_processor: Any,
        segmenter: Any | None,
        segmenter_processor: Any | None,
        *,
        device: str = "cpu",
        threshold: float = STORED_FROM,
    ) -> None:
        self.detector = detector.to(device).eval()
        self.detector_processor = detector_processor
        self.segmenter = segmenter.to(device).eval() if segmenter is not None else None
        self.segmenter_processor = segmenter_processor
        self.device = device
        self.threshold = threshold

    @classmethod
    def from_pretrained(
        cls, detector: str, segmenter: str | None, *, device: str = "cpu", threshold: float = STORED_FROM
    ) -> Self:
        """Load by hub name or local path.

        Raises:
            GroundingError: a checkpoint leaves weights unset; they would be random, silently.
            OSError: no such model.
        """
        detector_model = _complete(AutoModelForZeroShotObjectDetection, detector)
        segmenter_model = _complete(SamModel, segmenter) if segmenter else None
        return cls(
            detector_model,
            AutoProcessor.from_pretrained(detector),
            segmenter_model,
            SamProcessor.from_pretrained(segmenter) if segmenter else None,
            device=device,
            threshold=threshold,
        )

    @torch.inference_mode()
    def ground(self, image: Image.Image | None, phrase: str) -> list[GroundedObject]:
        """Candidates for one phrase, best first, with masks where a segmenter is there.

        Raises:
            ValueError: no image.
        """
        if image is None:
            raise ValueError("this backend looks at the image, found None")
        image = image.convert("RGB")
        width, height = image.size
        # One phrase per query: several in one prompt have their labels merged. Lower case and a full stop, as it was trained.
        text = phrase.strip().lower().rstrip(".") + "."
        inputs = self.detector_processor(images=image, text=text, return_tensors="pt").to(self.device)
        outputs = self.detector(**inputs)
        found = self.detector_processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=self.threshold, text_threshold=0.0, target_sizes=[(height, width)]
        )[0]
        boxes, scores = _clamped(found["boxes"].float().cpu().numpy(), found["scores"].float().cpu().numpy(), width, height)
        masks = self._masks(image, boxes) if self.segmenter is not None and len(boxes) else [None] * len(boxes)
        return rank(
            [
                GroundedObject(phrase=phrase, bbox=tuple(box), score=min(1.0, float(score)), mask=mask)
                for box, score, mask in zip(boxes.tolist(), scores, masks, strict=True)
            ]
        )

    def _masks(self, image: Image.Image, boxes: np.ndarray) -> list[Mask | None]:
        """One mask per box: of SAM's proposals the one that it rates best."""
        assert self.segmenter is not None
        assert self.segmenter_processor is not None
        inputs = self.segmenter_processor(image, input_boxes=[boxes.tolist()], return_tensors="pt").to(self.device)
        outputs = self.segmenter(**inputs, multimask_output=True)
        # Shape (boxes, proposals, height, width) in pixels of the original image.
        masks = self.segmenter_processor.image_processor.post_process_masks(
            outputs.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )[0]
        best = outputs.iou_scores[0].argmax(-1).cpu()
        return [encode_mask(masks[i, best[i]].numpy()) for i in range(len(boxes))]


def encode_mask(mask: np.ndarray) -> Mask:
    """COCO run-length encoding of a boolean mask, shape (height, width)."""
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Mask(size=(mask.shape[0], mask.shape[1]), counts=code["counts"].decode())


def _clamped(boxes: np.ndarray, scores: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut at the edges of the image; those without area inside it are dropped. Shapes (n, 4) and (n,)."""
    boxes = boxes.reshape(-1, 4).clip(0, [width, height, width, height])
    kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[kept], scores[kept]


def _complete(model_class: Any, name: str) -> Any:
    """`from_pretrained` that leaves no weight at its random start."""
    model, info = model_class.from_pretrained(name, output_loading_info=True)
    problems = {key: sorted(info[key]) for key in ("missing_keys", "mismatched_keys") if info.get(key)}
    if problems:
        shown = "; ".join(f"{len(keys)} {kind.replace('_', ' ')}, e.g. {keys[0]}" for kind, keys in problems.items())
        raise GroundingError(f"{name}: the checkpoint does not fill the model: {shown}")
    return model
