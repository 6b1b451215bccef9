"""Questions in one row: features, scores and answers of each are those that it has padded among the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.generated_states import generated_states
from emo_lightning.models.loading import load_backbone
from tests.made import stir_adapters
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

SIZES = [(84, 84), (56, 28), (84, 56), (28, 112), (84, 84), (28, 28)]


@pytest.fixture(scope="module")
def backbone(worded_model: Path) -> Backbone:  # noqa: F811
    """With an adapter that changes what the model says."""
    torch.manual_seed(0)
    backbone = load_backbone(BackboneConfig(str(worded_model), dtype="float32", train_vision=True, lora=LoRA(rank=4)))
    stir_adapters(backbone, 0.05)
    return backbone.requires_grad_(False).eval()


def asked(backbone: Backbone, tars: Path, keys: tuple[str, ...], *, packed: bool) -> ChatBatch:
    """Six pictures of five sizes."""
    index = TarIndex.open(str(tars / "*-train-*.tar"))
    pictures = [index.image(row).resize(size, Image.Resampling.BICUBIC) for row, size in enumerate(SIZES)]
    collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=packed)
    return collate([ImageQuestion(str(row), picture, keys) for row, picture in enumerate(pictures)])


@pytest.fixture(scope="module")
def batches(backbone: Backbone, world_tars: Path) -> tuple[ChatBatch, ChatBatch]:
    """The same questions packed and padded."""
    keys = objective("emotion").keys
    packed, padded = (asked(backbone, world_tars, keys, packed=one) for one in (True, False))
    assert packed["input_ids"].numel() < padded["input_ids"].numel(), "the test needs padding"
    return packed, padded


def same(found: tuple[torch.Tensor, torch.Tensor], expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    """States of tokens, wherever padding is."""
    for row in range(len(SIZES)):
        one, other = (states[:, row, mask[row]] for states, mask in (found, expected))
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_features(backbone: Backbone, batches: tuple[ChatBatch, ChatBatch]) -> None:
    with torch.no_grad():
        packed, padded = (backbone.features(batch) for batch in batches)
    assert packed[0].shape == padded[0].shape
    same(packed, padded)


def test_features_of_the_models_own_answers(backbone: Backbone, batches: tuple[ChatBatch, ChatBatch]) -> None:
    packed, padded = (generated_states(backbone, batch, 3, 6) for batch in batches)
    same(packed, padded)


def test_emotion_scores(backbone: Backbone, batches: tuple[ChatBatch, ChatBatch]) -> None:
    words = EmotionWords.of_question(backbone.processor.tokenizer)
    packed, padded = (backbone.emotion_scores(batch, words) for batch in batches)
    assert len({tuple(row) for row in packed[0].tolist()}) == len(SIZES)
    for found, expected in zip(packed, padded, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["attributes", "emotion"])
def test_answers(backbone: Backbone, world_tars: Path, name: str) -> None:
    packed, padded = (
        backbone.generate(asked(backbone, world_tars, objective(name).keys, packed=one), 24) for one in (True, False)
    )
    assert packed == padded
    assert len(set(packed)) > 1


def test_all_questions_of_an_image_are_answered_as_if_asked_alone(backbone: Backbone, world_tars: Path) -> None:
    """Read in one forward pass, the text that scores an emotion among it."""
    words = EmotionWords.of_question(backbone.processor.tokenizer)
    names = ("caption", "emotion", "attributes")
    first, *more = (objective(name).keys for name in names)
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    pictures = [index.image(row).resize(size, Image.Resampling.BICUBIC) for row, size in enumerate(SIZES)]
    collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=True)
    row = collate([ImageQuestion(str(n), picture, first, more=tuple(more)) for n, picture in enumerate(pictures)])
    read = backbone.read(row, {1: words.before})
    for number, name in enumerate(names):
        alone = asked(backbone, world_tars, objective(name).keys, packed=False)
        assert backbone.replies(read, number, 16) == backbone.generate(alone, 16)
        if name == "emotion":
            scores, expected = backbone.word_scores(read.states[1::3], words), backbone.emotion_scores(alone, words)
            for one, other in zip(scores, expected, strict=True):
                torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
