"""Detector → boxes → segmenter → masks: what both model backends share (paper section 3.1.2).

A backend adds two forward passes. Preparing images, choosing candidates and drawing masks is the same code for both, so they can
differ by their networks alone. Images are resized by PIL, as in the training of both models; the torchvision resize differs from
it by a grey level here and there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from data_prep.grounding.base import MIN_STORED_SCORE, GroundingError, PhraseQuery, query_text, rank
from data_prep.grounding.masks import encode_mask
from emo_lightning.core.boxes import inside
from emo_lightning.core.records import GroundedObject, Mask

if TYPE_CHECKING:
    from PIL import Image
    from transformers.image_processing_utils import BaseImageProcessor

_BOXES = 32
"""Boxes that go through the mask decoder together."""
_DRAWN = 8
"""Masks that are drawn at full size together: four bytes a pixel, 100 MB for one of 24 megapixels."""


class Detector(ABC):
    """A Grounding DINO.

    Args:
        image_processor: of transformers; resizes and normalises one image.
        device: of the network.
    """

    def __init__(self, image_processor: BaseImageProcessor, device: str) -> None:
        self.image_processor = image_processor
        self.device = device

    @abstractmethod
    def forward(self, pixels: torch.Tensor, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images of one size, shape (batch, 3, height, width), and a text for each.

        Returns:
            Logits, shape (batch, queries, tokens), −inf where there is no token; boxes as centre x, centre y, width, height in 0–1,
            shape (batch, queries, 4).
        """

    def batch_key(self, text: str) -> Hashable:  # noqa: ARG002 - a backend may need it
        """Texts with equal keys may go through the network together."""
        return None

    def detect(self, images: Sequence[Image.Image], texts: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Logits (queries, tokens) and boxes (queries, 4) as of `forward`, for each image, float32 on the CPU.

        Only images of one size after resizing go through the network together: the backbone does not mask padding, so with
        padding the result for an image would depend on the others of its batch.
        """
        groups: dict[Hashable, list[tuple[int, torch.Tensor]]] = defaultdict(list)
        for i, image in enumerate(images):
            pixels = self.image_processor(images=image, return_tensors="pt")["pixel_values"][0]
            groups[tuple(pixels.shape), self.batch_key(texts[i])].append((i, pixels))
        found: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        for group in groups.values():
            stacked = torch.stack([pixels for _, pixels in group]).to(self.device)
            logits, boxes = self.forward(stacked, [texts[i] for i, _ in group])
            for (i, _), of_logits, of_boxes in zip(group, logits.float().cpu(), boxes.float().cpu(), strict=True):
                found[i] = of_logits, of_boxes
        return [found[i] for i in range(len(images))]


class Segmenter(ABC):
    """A SAM.

    Args:
        image_processor: of transformers; resizes, normalises and pads one image to a square.
        device: of the network.
    """

    mask_threshold = 0.0

    def __init__(self, image_processor: BaseImageProcessor, device: str) -> None:
        self.image_processor = image_processor
        self.device = device

    @abstractmethod
    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings of images, shape (batch, 3, side, side) → (batch, channels, h, w)."""

    @abstractmethod
    def decode(self, embedding: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Proposals for boxes of one image.

        Args:
            embedding: shape (1, channels, h, w).
            boxes: x1, y1, x2, y2 in pixels of the resized image, shape (n, 4).

        Returns:
            Mask logits, shape (n, proposals, 4h, 4w), and the rating of each, shape (n, proposals).
        """

    def segment(self, images: Sequence[Image.Image], boxes: Sequence[NDArray[np.float64]]) -> list[list[Mask]]:
        """One mask per box: of the proposals the one that the network rates best.

        Args:
            images: RGB.
            boxes: for each image, x1, y1, x2, y2 in its pixels, shape (n, 4).
        """
        prepared = [self.image_processor(images=image, return_tensors="pt") for image in images]
        embeddings = self.encode(torch.cat([p["pixel_values"] for p in prepared]).to(self.device))
        masks = []
        for i, image in enumerate(images):
            width, height = image.size
            resized = tuple(int(x) for x in prepared[i]["reshaped_input_sizes"][0])
            scale = np.array([resized[1] / width, resized[0] / height] * 2)
            scaled = torch.as_tensor(boxes[i] * scale, dtype=torch.float32, device=self.device)
            logits = torch.cat([self._best(embeddings[i : i + 1], part) for part in torch.split(scaled, _BOXES)])
            side = prepared[i]["pixel_values"].shape[-2:]
            masks.append(self._draw(logits, (int(side[0]), int(side[1])), (resized[0], resized[1]), (height, width)))
        return masks

    @torch.no_grad()
    def masks_of(self, image: Image.Image, boxes: Sequence[Sequence[float]]) -> list[Mask | None]:
        """A mask for each box of one picture, as `EmotionModel.explain` asks for them.

        Args:
            image: RGB.
            boxes: (x1, y1, x2, y2) each, as a model said them; nothing is found for one that is not in the picture.
        """
        within = {n: cut for n, box in enumerate(boxes) if (cut := inside(box, image.size)) is not None}
        found = self.segment([image], [np.array(list(within.values()))])[0] if within else []
        masks = dict(zip(within, found, strict=True))
        return [masks.get(n) for n in range(len(boxes))]

    def _best(self, embedding: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Mask logits of the best proposal, shape (n, 1, 4h, 4w)."""
        logits, ratings = self.decode(embedding, boxes)
        best = ratings.argmax(-1)
        return logits[torch.arange(len(boxes), device=logits.device), best][:, None]

    def _draw(
        self, logits: torch.Tensor, padded: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]
    ) -> list[Mask]:
        """Logits at the scale of the padded square, cut to the image, at the scale of the image; all sizes (height, width)."""
        drawn = []
        for part in torch.split(logits.float(), _DRAWN):
            square = interpolate(part, padded, mode="bilinear", align_corners=False)
            whole = interpolate(square[..., : resized[0], : resized[1]], size, mode="bilinear", align_corners=False)
            drawn += [encode_mask(mask) for mask in (whole[:, 0] > self.mask_threshold).cpu().numpy()]
        return drawn


class ModelGrounder:
    """Boxes by a detector, masks by a segmenter.

    Args:
        detector: a Grounding DINO.
        segmenter: a SAM, or None for boxes alone.
        threshold: candidates with a lower score are dropped.
    """

    def __init__(self, detector: Detector, segmenter: Segmenter | None, threshold: float = MIN_STORED_SCORE) -> None:
        self.detector = detector
        self.segmenter = segmenter
        self.threshold = threshold

    @torch.inference_mode()
    def ground(self, queries: Sequence[PhraseQuery]) -> list[list[GroundedObject]]:
        """As `Grounder.ground`, all images in one batch; masks where a segmenter is there.

        Raises:
            GroundingError: a query without an image.
        """
        found: list[list[GroundedObject]] = [[] for _ in queries]
        asked: list[tuple[int, Image.Image, str]] = []
        for i, query in enumerate(queries):
            if query.image is None:
                msg = f"this backend looks at images, found none for {query.phrase!r}"
                raise GroundingError(msg)
            if text := query_text(query.phrase):
                asked.append((i, query.image.convert("RGB"), text))
        detections = self.detector.detect([image for _, image, _ in asked], [text for _, _, text in asked])
        candidates = {}
        for (i, image, _), (logits, boxes) in zip(asked, detections, strict=True):
            kept, scores = candidates_of(logits, boxes, image.size, self.threshold)
            if len(kept):
                candidates[i] = (image, kept, scores)
        masks: dict[int, Sequence[Mask | None]] = {i: [None] * len(kept) for i, (_, kept, _) in candidates.items()}
        if self.segmenter is not None and candidates:
            drawn = self.segmenter.segment([c[0] for c in candidates.values()], [c[1] for c in candidates.values()])
            masks |= dict(zip(candidates, drawn, strict=True))
        for i, (_, kept, scores) in candidates.items():
            found[i] = rank(
                [
                    GroundedObject(phrase=queries[i].phrase, bbox=tuple(box), score=score, mask=mask)
                    for box, score, mask in zip(kept.tolist(), scores.tolist(), masks[i], strict=True)
                ]
            )
        return found


def candidates_of(
    logits: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Candidates with score ≥ `threshold`, cut at the edges of the image; those without area inside it are dropped.

    Args:
        logits: shape (queries, tokens); the score is the sigmoid of the largest.
        boxes: centre x, centre y, width, height in 0–1, shape (queries, 4).
        size: (width, height) of the image.
        threshold: smallest score.

    Returns:
        x1, y1, x2, y2 in pixels, to a hundredth, shape (n, 4), and scores, shape (n,).
    """
    scores = logits.max(-1).values.sigmoid().double().numpy()
    centre, extent = boxes.double().numpy()[:, :2], boxes.double().numpy()[:, 2:]
    scale = np.array(size * 2, dtype=float)
    corners = (np.concatenate([centre - extent / 2, centre + extent / 2], axis=1) * scale).clip(0, scale).round(2)
    kept = (scores >= threshold) & (corners[:, 2] > corners[:, 0]) & (corners[:, 3] > corners[:, 1])
    return corners[kept], scores[kept]
