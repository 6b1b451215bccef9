"""Qwen3-VL: what it computes is what transformers computes, from a batch of ours, from a row and from a cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import prompt
from emo_lightning.data.collate import IGNORE, Collator, Question
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone, BackboneConfig, LoRA, load_backbone
from emo_lightning.models.families import family_of
from emo_lightning.models.families.base import CACHED, CachedPicture, Part
from emo_lightning.models.families.places import Places, Tower
from emo_lightning.models.families.qwen2_5_vl import PLACES
from tests.models.families.newcomer import check_family
from tests.models.families.test_places import Waits, gradients
from tests.models.families.tiny_qwen3_vl import build_qwen3_vl
from tests.worded import worded_qwen  # noqa: F401 - fixture

SIZES = [(96, 64), (64, 96), (150, 70), (40, 40)]


@pytest.fixture(scope="module")
def tiny(worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return build_qwen3_vl(tmp_path_factory.mktemp("qwen3") / "model", worded_qwen)


@pytest.fixture(scope="module")
def questions(world_tars: Path) -> list[Question]:
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    keys = ("description", "emotion", "intensity")
    found = []
    for row, size in enumerate(SIZES):
        record, image = index.sample(row)
        found.append(Question(record.id, image.resize(size, Image.Resampling.BICUBIC), keys, record))
    return found


def loaded(path: Path, **options: Any) -> Backbone:  # noqa: ANN401
    torch.manual_seed(0)
    return load_backbone(BackboneConfig(str(path), dtype="float32", train_vision=True, **({"tuning": "full"} | options)))


def batch_of(backbone: Backbone, questions: list[Question], *, packed: bool) -> ChatBatch:
    return Collator(backbone.processor, backbone.model_type, answers=True, packed=packed, distributions=True)(questions)


def test_it_does_what_every_family_must(tiny: Path, world_tars: Path) -> None:
    check_family(tiny, "qwen3_vl", world_tars)


def test_loss_and_gradients_are_those_of_transformers(tiny: Path, questions: list[Question]) -> None:
    """With its own processor, which normalises every picture twice, and its own loss."""
    backbone = loaded(tiny).eval()
    theirs = Qwen3VLForConditionalGeneration.from_pretrained(tiny, dtype="float32", attn_implementation="sdpa").eval()
    processor = AutoProcessor.from_pretrained(tiny)
    for question in questions:
        batch = batch_of(backbone, [question], packed=False)
        inputs = processor.image_processor([question.image], return_tensors="pt")
        labels, ids = batch["labels"], batch["input_ids"]
        types = (ids == processor.image_token_id).long()
        theirs.zero_grad()
        given = {"attention_mask": torch.ones_like(ids), "labels": labels, "mm_token_type_ids": types}
        expected = theirs(input_ids=ids, **given, **inputs).loss
        expected.backward()
        backbone.zero_grad()
        loss, count = backbone.answer_loss(batch)
        loss.backward()
        assert int(count) == int((labels != IGNORE).sum())
        assert float(loss) == pytest.approx(float(expected) * int(count), rel=1e-5)
        ours = dict(backbone.base.named_parameters())
        for name, parameter in theirs.named_parameters():
            assert parameter.grad is not None
            found = cast(Tensor, ours[name].grad) / int(count)
            assert float((found - parameter.grad).abs().max()) <= 1e-5 * max(1.0, float(parameter.grad.abs().max())), name


def test_pictures_decide_what_it_says(tiny: Path, questions: list[Question]) -> None:
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


@pytest.mark.parametrize("part", ["vision", "merger"])
@pytest.mark.parametrize("packed", [True, False])
def test_what_a_cache_holds_is_what_the_live_tower_gives(
    tiny: Path, questions: list[Question], part: Part, packed: bool
) -> None:
    backbone = loaded(tiny).eval()
    family = backbone.family
    live: dict[str, Any] = dict(batch_of(backbone, questions, packed=packed))
    pictures: list[CachedPicture] = []
    for one in questions:
        picture = cast("Image.Image", one.image)
        inputs = family.vision_inputs(backbone.processor, [picture])
        with torch.no_grad():
            states = family.picture_states(backbone.base, inputs.tensors, part)
        assert len(states) == sum(inputs.tokens)
        pictures.append(CachedPicture(picture.size, states, part))
    found = family.cached_inputs(backbone.processor, pictures)
    cached = {name: value for name, value in live.items() if name not in ("pixel_values", PLACES)} | found.tensors
    assert CACHED[part] in cached
    with torch.no_grad():
        expected, given = (backbone.answer_loss(cast(ChatBatch, batch))[0] for batch in (live, cached))
    # To the bit for the row; transformers' tower sees the padded batch's pictures together.
    assert float(given) == pytest.approx(float(expected), rel=1e-6)


def test_nothing_waits_for_the_device(tiny: Path, questions: list[Question]) -> None:
    backbone = loaded(tiny, tuning="lora", lora=LoRA(rank=2)).train()
    batch = batch_of(backbone, questions, packed=True)
    with Waits() as waits:
        given = gradients(backbone, batch)
    assert not waits.found
    without = cast(ChatBatch, {name: value for name, value in batch.items() if name != PLACES})
    with Waits() as waits:
        worked_out = gradients(backbone, without)
    assert waits.found, "the test does not see what transformers asks for"
    assert all(torch.equal(one, other) for one, other in zip(given, worked_out, strict=True))


def test_a_table_of_another_size_is_stretched_by_the_tower_itself(tiny: Path, questions: list[Question]) -> None:
    backbone = loaded(tiny)
    tower = cast(Any, backbone.family)._tower(backbone.base)
    assert tower == Tower(None, 16, 2, 48)
    batch = cast("dict[str, Any]", batch_of(backbone, questions, packed=True))
    other = Places.of([(2, 2)], Tower(None, 16, 2, 24))
    assert cast(Any, backbone.family)._tower_inputs(backbone.base, {**batch, PLACES: other}, torch.device("cpu")) == {}


def test_a_thinking_model_answers_without_a_thought(
    worded_qwen: Path,  # noqa: F811
    tmp_path: Path,
    questions: list[Question],
) -> None:
    backbone = loaded(build_qwen3_vl(tmp_path / "thinks", worded_qwen, thinking=True))
    batch = Collator(backbone.processor, backbone.model_type, answers=True)(questions[:1])
    tokenizer = backbone.processor.tokenizer
    text = tokenizer.decode(batch["input_ids"][0])
    assert isinstance(text, str)
    asked, _, answered = text.partition("<|im_start|>assistant\n")
    assert prompt(questions[0].keys) in asked
    assert answered.startswith("<think>\n\n</think>\n\n{")
    labels = tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORE])
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
