from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from data_prep.grounding import RegionGrounder
from emo_lightning.schema import GroundedObject


def region(phrase: str, x: float = 0, size: float = 10, score: float = 1.0) -> GroundedObject:
    return GroundedObject(phrase=phrase, bbox=(x, 0, x + size, size), score=score)


def test_regions_are_found_by_their_words() -> None:
    grounder = RegionGrounder([region("a smiling dog"), region("tree", 20), region("Dogs", 40, size=5), region("glass", 50)])
    found = grounder.ground(None, "the dog")
    assert [(o.bbox[0], o.primary, o.phrase) for o in found] == [(0, True, "the dog"), (40, False, "the dog")]
    assert grounder.ground(None, "cat") == []
    assert grounder.ground(None, "") == []
    assert [o.score for o in grounder.ground(None, "sad tree")] == [0.5]
    assert grounder.ground(None, "b c d e tree") == [], "a fifth of the words is below the threshold"


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Grounding DINO and a SAM of the true classes, tiny and random, saved as checkpoints."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "dog", "cat", "a"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = t.BertTokenizer(str(folder / "vocab.txt"))
    text = t.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    swin = t.SwinConfig(
        image_size=64, embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = t.GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_queries=12, max_text_len=64,
        num_feature_levels=4, encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    detector = folder / "dino"
    t.GroundingDinoForObjectDetection(config).save_pretrained(detector)
    images = t.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    t.GroundingDinoProcessor(images, tokenizer).save_pretrained(detector)

    sam = t.SamConfig(
        vision_config=t.SamVisionConfig(
            hidden_size=32, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=16,
            mlp_ratio=1.0, window_size=2, num_pos_feats=8, global_attn_indexes=[0], mlp_dim=32,
        ),
        prompt_encoder_config=t.SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=16, mask_input_channels=4),
        mask_decoder_config=t.SamMaskDecoderConfig(
            hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16,
        ),
    )  # fmt: skip
    segmenter = folder / "sam"
    t.SamModel(sam).save_pretrained(segmenter)
    small = t.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    t.SamProcessor(small).save_pretrained(segmenter)
    return detector, segmenter


def test_transformers_backend_gives_boxes_and_masks_in_image_pixels(tiny_models: tuple[Path, Path]) -> None:
    from data_prep.grounding.transformers_backend import TransformersGrounder

    grounder = TransformersGrounder.from_pretrained(str(tiny_models[0]), str(tiny_models[1]), threshold=0.0)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype=np.uint8))
    found = grounder.ground(image, "Dog")
    assert 0 < len(found) <= 12
    assert [o.primary for o in found] == [True] + [False] * (len(found) - 1)
    assert [o.score for o in found] == sorted((o.score for o in found), reverse=True)
    for o in found:
        assert 0 <= o.bbox[0] < o.bbox[2] <= 70
        assert 0 <= o.bbox[1] < o.bbox[3] <= 50
        assert o.mask is not None
        assert o.mask.size == (50, 70)
        assert coco.decode({"size": list(o.mask.size), "counts": o.mask.counts.encode()}).shape == (50, 70)
    middle = sorted(o.score for o in found)[len(found) // 2]
    grounder.threshold = middle
    assert all(o.score >= middle for o in grounder.ground(image, "dog"))


def test_a_checkpoint_with_a_hole_is_refused(tiny_models: tuple[Path, Path], tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    from data_prep.grounding.transformers_backend import GroundingError, TransformersGrounder

    broken = tmp_path / "dino"
    shutil.copytree(tiny_models[0], broken)
    weights = load_file(broken / "model.safetensors")
    gone = next(name for name in weights if "encoder.layers.0" in name)
    del weights[gone]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(GroundingError, match="1 missing keys"):
        TransformersGrounder.from_pretrained(str(broken), None)
