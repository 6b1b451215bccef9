"""Qwen3-VL: DeepStack, positions from a table, a thought that is ended, and the published shapes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from emo_lightning.data.chat import prompt
from emo_lightning.data.collate import IGNORE_INDEX, Collator, ImageQuestion
from emo_lightning.models.families import family_of
from emo_lightning.models.families.grids import PLACES_KEY
from emo_lightning.models.families.places import PatchPlaces, Tower
from tests.models.families.test_parity import batch_of, loaded, questions  # noqa: F401 - fixture
from tests.models.families.tiny_qwen3_vl import build_qwen3_vl
from tests.worded import worded_qwen  # noqa: F401 - fixture


@pytest.fixture(scope="module")
def tiny(worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return build_qwen3_vl(tmp_path_factory.mktemp("qwen3") / "model", worded_qwen)


def test_pictures_decide_what_it_says(tiny: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """Every level of DeepStack among them."""
    backbone = loaded(tiny).eval()
    batch = batch_of(backbone, questions, packed=True)
    with torch.no_grad():
        before = backbone.last_hidden_state(batch)
        for merger in backbone.family.module(backbone.base, "model.visual.deepstack_merger_list").children():
            cast("dict[str, Tensor]", dict(merger.named_parameters()))["linear_fc2.bias"].add_(1)
            after = backbone.last_hidden_state(batch)
            assert not torch.allclose(before, after, atol=1e-3)
            before = after


def test_a_table_of_another_size_is_stretched_by_the_tower_itself(tiny: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = loaded(tiny)
    tower = cast(Any, backbone.family)._tower(backbone.base)
    assert tower == Tower(None, 16, 2, 48)
    batch = cast("dict[str, Any]", batch_of(backbone, questions, packed=True))
    other = PatchPlaces.of([(2, 2)], Tower(None, 16, 2, 24))
    assert cast(Any, backbone.family)._tower_inputs(backbone.base, {**batch, PLACES_KEY: other}, torch.device("cpu")) == {}


def test_a_thinking_model_answers_without_a_thought(
    worded_qwen: Path,  # noqa: F811
    tmp_path: Path,
    questions: list[ImageQuestion],  # noqa: F811
) -> None:
    backbone = loaded(build_qwen3_vl(tmp_path / "thinks", worded_qwen, thinking=True))
    batch = Collator(backbone.processor, backbone.model_type, answers=True)(questions[:1])
    tokenizer = backbone.processor.tokenizer
    text = tokenizer.decode(batch["input_ids"][0])
    assert isinstance(text, str)
    asked, _, answered = text.partition("<|im_start|>assistant\n")
    assert prompt(questions[0].keys) in asked
    assert answered.startswith("<think>\n\n</think>\n\n{")
    labels = tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORE_INDEX])
    assert isinstance(labels, str)
    assert labels.startswith('{"description"')
    for text in ("<think>", "a\n<think>\n", "a"):
        assert backbone.family.prompt_text(text) == text.replace("<think>", "<think>\n\n</think>").rstrip() + (
            "\n\n" * ("<" in text)
        )


def test_boxes_both_ways() -> None:
    codec = family_of("qwen3_vl").codec
    for original in ((640, 480), (33, 2000)):
        box = (0.1 * original[0], 0.2 * original[1], 0.75 * original[0], 0.9 * original[1])
        spoken = codec.encode(box, original, (64, 64))
        assert spoken == (100, 200, 750, 900)
        assert codec.decode(spoken, original, (64, 64)) == pytest.approx(box, abs=max(original) / 2000)


REAL: dict[str, tuple[dict[str, int], dict[str, Any], int, bool]] = {
    "2B": (
        {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
        {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2048,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        2_127_532_032,
        True,
    ),
    "4B": (
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
        {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
            "deepstack_visual_indexes": [5, 11, 17],
        },
        4_437_815_808,
        True,
    ),
    "8B": (
        {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
        {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "out_hidden_size": 4096,
            "deepstack_visual_indexes": [8, 16, 24],
        },
        8_767_123_696,
        False,
    ),
}
"""Of the published models: text, vision, number of parameters, whether the head is the embedding."""


@pytest.mark.parametrize("size", REAL)
def test_published_shapes(size: str) -> None:
    text, vision, parameters, tied = REAL[size]
    config = Qwen3VLConfig(
        text_config={**text, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936},
        vision_config={**vision, "num_heads": 16},
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    model.tie_weights()
    family = family_of("qwen3_vl")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert len(family.layers(model)) == text["num_hidden_layers"]
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = {part: sum(bool(re.fullmatch(targets, name)) for name in linear) for part, targets in family.lora_targets.items()}
    assert found == {"vision": 4 * vision["depth"], "merger": 2 * 4, "language": 7 * text["num_hidden_layers"]}
