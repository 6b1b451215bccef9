"""Boxes and masks as transformers' own processors make them of the same networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as t
from PIL import Image

from data_prep.grounding import PhraseQuery, transformers_backend
from data_prep.grounding.masks import decode_mask

THRESHOLD = 0.79


@torch.inference_mode()
def test_boxes_and_masks_are_those_of_the_processors(folders: dict[str, Path], images: list[Image.Image]) -> None:
    grounder = transformers_backend.load(str(folders["dino"]), str(folders["sam"]), threshold=THRESHOLD)
    # Random weights are sure of everything; calmer ones give scores from 0.74 to 0.84.
    detector, segmenter = grounder.detector, grounder.segmenter
    assert isinstance(detector, transformers_backend.TransformersDetector)
    assert isinstance(segmenter, transformers_backend.TransformersSegmenter)
    for weight in detector.model.model.decoder.layer_norm.parameters():
        weight.mul_(0.03)
    image_processor, tokenizer = (
        c.from_pretrained(folders["dino"]) for c in (t.GroundingDinoImageProcessorPil, t.AutoTokenizer)
    )
    processor = t.GroundingDinoProcessor(image_processor, tokenizer)
    sam_processor = t.SamProcessor(t.SamImageProcessorPil.from_pretrained(folders["sam"]))
    phrases = ["dog", "a sad cat", "old tree", "a dog", "cat", "sad tree"]
    kept = dropped = 0
    for image, phrase, found in zip(
        images, phrases, grounder.ground([PhraseQuery(i, p) for i, p in zip(images, phrases, strict=True)]), strict=True
    ):
        inputs = processor(images=image, text=f"{phrase}.", return_tensors="pt")
        outputs = detector.model(**inputs)
        (own,) = processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=THRESHOLD, text_threshold=0.0, target_sizes=[image.size[::-1]]
        )
        size = np.array(image.size * 2)
        boxes = own["boxes"].double().numpy().clip(0, size).round(2)
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        expected = sorted(
            zip((-own["scores"].double()[torch.from_numpy(inside)]).tolist(), boxes[inside].tolist(), strict=True)
        )
        kept, dropped = kept + len(expected), dropped + outputs.logits.shape[1] - len(expected)
        assert [-o.score for o in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
        for o, (_, box) in zip(found, expected, strict=True):
            assert o.bbox == pytest.approx(box, abs=0.02)
        given = sam_processor(image, input_boxes=[[list(o.bbox) for o in found]], return_tensors="pt")
        drawn = segmenter.model(**given, multimask_output=True)
        (masks,) = sam_processor.image_processor.post_process_masks(
            drawn.pred_masks, given["original_sizes"], given["reshaped_input_sizes"]
        )
        for o, proposals, ratings in zip(found, masks, drawn.iou_scores[0], strict=True):
            assert o.mask is not None
            mask = decode_mask(o.mask)
            differing = [int((mask != proposal.numpy()).sum()) for proposal in proposals]
            assert differing[int(ratings.argmax())] <= 2, "the best-rated proposal, at the scale of the image"
            assert max(differing) > 50, "the proposals are not alike"
    assert min(kept, dropped) > 5, "this test wants candidates on both sides of the threshold"


def test_masks_of_boxes_that_a_model_said(folders: dict[str, Path], images: list[Image.Image]) -> None:
    """As `EmotionModel.explain(masks=…)` asks for them: what lies outside has none, what leaves the picture is cut."""
    segmenter = transformers_backend.load_segmenter(str(folders["sam"]))
    width, height = images[0].size
    outside, inner = (-9.0, -9.0, -1.0, -1.0), (2.0, 2.0, width / 2, height / 2)
    found = segmenter.masks_of(images[0], [outside, inner, (2.0, 2.0, 9e5, 9e5)])
    assert found[0] is None
    assert all(mask is not None and mask.size == (height, width) for mask in found[1:])
    assert found[1:] == segmenter.segment([images[0]], [np.array([inner, (2.0, 2.0, width, height)])])[0]
    assert segmenter.masks_of(images[0], [outside]) == [None]
