"""Samples in one row: the loss and every gradient of each alone, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.families.attention import attend
from emo_lightning.models.families.samples import Samples
from emo_lightning.models.loading import load_backbone
from tests.made import stir_adapters
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

KEYS = [("description",), ("emotion", "intensity"), ("bbox_2d", "description", "background", "attribute", "subject")]
SIZES = [(28, 28), (56, 28), (84, 56), (28, 112), (84, 84), (70, 90)]
PACKINGS = 200


@pytest.fixture(scope="module")
def questions(world_tars: Path) -> list[ImageQuestion]:
    """Twelve, with pictures of several sizes and answers of several lengths."""
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    found = []
    for row in range(12):
        record, image = index.sample(row)
        image = image.resize(SIZES[row % len(SIZES)], Image.Resampling.BICUBIC)
        found.append(ImageQuestion(record.id, image, KEYS[row % len(KEYS)], record))
    return found


@dataclass
class Alone:
    """The loss of a sample by itself, its number of supervised tokens, and its gradients."""

    loss: float
    count: int
    gradients: dict[str, Tensor]


def collator(backbone: Backbone, *, packed: bool) -> Collator:
    return Collator(backbone.processor, backbone.model_type, answers=True, distributions=True, packed=packed)


def learned(backbone: Backbone, batch: ChatBatch, options: dict[str, Any]) -> Alone:
    backbone.zero_grad()
    loss, count = backbone.answer_loss(batch, **options)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}
    return Alone(float(loss.detach()), int(count), gradients)


def close(found: Tensor, expected: Tensor) -> bool:
    """To 1e-5 of the largest entry, or of 1."""
    return _off(found, expected) <= 1e-5


def _off(found: Tensor, expected: Tensor, least: float = 1.0) -> float:
    return float((found - expected).abs().max()) / max(least, float(expected.abs().max()))


EXACT = {"qwen3_5": 1e-4}
"""What is equal in float64 is so to 1e-6, as losses and turns are computed in float32 whatever the model's type; to this where transformers keeps
a state in float32, too, and writes it again and again."""
ROUNDING = 4
"""Where float32 is less exact than 1e-5, a row's rounding may be so many times that of its samples alone: it depends on the order in which a
machine sums (on one with AMX that of the samples alone was 5e-5, and the row's 1e-5)."""


@dataclass
class Both:
    """What is learned in float32, and in float64."""

    single: Alone
    double: Alone


class Learner:
    """A backbone in float32, and the same in float64."""

    def __init__(self, path: Path, tuning: dict[str, Any]) -> None:
        self.single, self.double = tuned(path, tuning), in_float64(tuned(path, tuning))

    def learned(self, batch: ChatBatch, options: dict[str, Any]) -> Both:
        return Both(learned(self.single, batch, options), learned(self.double, batch, options))

    def check(self, found: Both, alone: list[tuple[float, Both]]) -> None:
        """Loss and gradients of a row are those of what stands in it, each with its share: in float64 exactly, in float32 but for rounding."""
        exact = EXACT.get(self.single.model_type, 1e-6)
        loss = sum(share * one.double.loss for share, one in alone)
        assert found.double.loss == pytest.approx(loss, rel=1e-6)
        assert found.single.loss == pytest.approx(loss, rel=1e-5)
        assert found.single.gradients.keys() == found.double.gradients.keys() == alone[0][1].single.gradients.keys()
        for name, gradient in found.single.gradients.items():
            truth = torch.stack([share * one.double.gradients[name] for share, one in alone]).sum(0)
            off = _off(found.double.gradients[name], truth, 1e-3)
            assert off <= exact, (name, off)
            rounded = _off(torch.stack([share * one.single.gradients[name] for share, one in alone]).sum(0), truth)
            assert _off(gradient, truth) <= max(1e-5, ROUNDING * rounded), (name, _off(gradient, truth), rounded)


def in_float64(backbone: Backbone) -> Backbone:
    """In place; weights in 4 bits are written out."""
    backbone.double()
    for module in list(backbone.modules()):
        for name, layer in list(module.named_children()):
            if type(layer).__name__ == "Linear4bit" and isinstance(layer, torch.nn.Linear):
                setattr(module, name, _written_out(layer))
    return backbone


def _written_out(layer: torch.nn.Linear) -> torch.nn.Linear:
    from bitsandbytes.functional import dequantize_4bit

    weight = dequantize_4bit(layer.weight.data, cast(Any, layer.weight).quant_state).double()
    whole = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, dtype=torch.float64)
    whole.requires_grad_(False)
    whole.weight.copy_(weight)
    if layer.bias is not None:
        whole.bias.copy_(layer.bias)
    return whole


def tuned(path: Path, tuning: dict[str, Any] | None = None) -> Backbone:
    torch.manual_seed(0)
    backbone = load_backbone(BackboneConfig(str(path), dtype="float32", train_vision=True, **(tuning or {"tuning": "full"})))
    stir_adapters(backbone, 0.05)
    return backbone.eval()


@pytest.mark.parametrize(
    ("tuning", "options", "packings"),
    [
        pytest.param({"tuning": "full"}, {}, PACKINGS, id="full"),
        pytest.param({"tuning": "lora", "lora": LoRA(rank=2, dropout=0.0)}, {"soft": True}, 5, id="lora, soft labels"),
        pytest.param({"tuning": "qlora", "lora": LoRA(rank=2, dropout=0.0)}, {"soft": True}, 5, id="qlora"),
        pytest.param({"tuning": "full"}, {"distribution_weight": 0.7}, 5, id="full, distributions"),
        pytest.param({"tuning": "full", "gradient_checkpointing": True}, {"soft": True}, 5, id="checkpointing"),
    ],
)
def test_loss_and_gradients_are_those_of_the_samples_alone(
    worded_model: Path,  # noqa: F811
    questions: list[ImageQuestion],
    tuning: dict[str, Any],
    options: dict[str, Any],
    packings: int,
) -> None:
    if tuning["tuning"] == "qlora":
        pytest.importorskip("bitsandbytes")
    learner = Learner(worded_model, tuning)
    single, packed = collator(learner.single, packed=False), collator(learner.single, packed=True)
    alone = [learner.learned(single([question]), options) for question in questions]
    draw = np.random.default_rng(0)
    # What packs is the same code: of another family a few show that it is given the right things.
    for _ in range(packings if learner.single.model_type == "qwen2_5_vl" else max(packings // 10, 5)):
        chosen = draw.integers(0, len(questions), draw.integers(1, 6)).tolist()
        found = learner.learned(packed([questions[i] for i in chosen]), options)
        assert found.single.count == sum(alone[i].single.count for i in chosen)
        learner.check(found, [(1.0, alone[i]) for i in chosen])


def losses(backbone: Backbone, batch: ChatBatch) -> list[Tensor]:
    """By token, a sample a tensor."""
    with torch.no_grad():
        logits = backbone.lm_head(backbone.last_hidden_state(batch))[0, :-1]
    of_tokens = torch.nn.functional.cross_entropy(logits, batch["labels"][0, 1:], reduction="none")
    return list(torch.cat([torch.zeros(1), of_tokens]).split(batch["lengths"]))


def test_no_sample_changes_another_by_a_bit(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = tuned(worded_model)
    packed = collator(backbone, packed=True)
    batch = packed(questions[:5])
    before = losses(backbone, batch)
    # Another picture of the same size, and other words in its answer.
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*questions[2].image.size[::-1], 3), dtype=np.uint8))
    changed = packed([*questions[:2], ImageQuestion("x", noise, questions[2].keys, questions[2].record), *questions[3:5]])
    begin, end = sum(batch["lengths"][:2]), sum(batch["lengths"][:3])
    changed["input_ids"][0, end - 20 : end - 3] = changed["input_ids"][0, begin + 1]
    after = losses(backbone, changed)
    assert [torch.equal(old, new) for old, new in zip(before, after, strict=True)] == [True, True, False, True, True]


def test_positions_are_those_of_transformers(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = tuned(worded_model)
    packed = collator(backbone, packed=True)(questions)
    parts = cast("dict[str, Tensor]", packed)["positions"].split(packed["lengths"], dim=2)
    for question, found in zip(questions, parts, strict=True):
        alone = cast("dict[str, Any]", collator(backbone, packed=False)([question]))
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        expected, _ = cast(Any, backbone.base).model.get_rope_index(**{name: alone[name] for name in names})
        assert found.equal(expected)


@pytest.mark.parametrize("answers", [True, False])
def test_positions_of_padded_batches_are_those_of_transformers(
    worded_qwen: Path,  # noqa: F811
    questions: list[ImageQuestion],
    monkeypatch: pytest.MonkeyPatch,
    answers: bool,
) -> None:
    """Padded on the right and on the left; nothing of it is left to the forward pass."""
    backbone = tuned(worded_qwen)
    batch: dict[str, Any] = dict(Collator(backbone.processor, backbone.model_type, answers=answers)(questions[:5]))
    names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
    body = cast(Any, backbone.base).model
    expected, _ = body.get_rope_index(**{name: batch[name] for name in names})
    assert batch["positions"].equal(expected)
    states = backbone.last_hidden_state({name: value for name, value in batch.items() if name != "positions"})
    monkeypatch.setattr(body, "get_rope_index", None)
    assert backbone.last_hidden_state(batch).equal(states)


def test_one_call_of_attention_a_layer_and_tower(
    worded_model: Path,  # noqa: F811
    questions: list[ImageQuestion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from emo_lightning.models.families import attention

    backbone = tuned(worded_model)
    calls: list[int] = []
    attend: Callable[..., Tensor] = attention.attend

    def counted(query: Tensor, *arguments: object, **options: object) -> Tensor:
        calls.append(len(query))
        return attend(query, *arguments, **options)

    monkeypatch.setattr(attention, "attend", counted)
    batch = collator(backbone, packed=True)(questions)
    backbone.last_hidden_state(batch)
    vision, layers = len(backbone.base.model.visual.blocks), backbone.family.layers(backbone.base)
    # Others have linear attention.
    language = sum(hasattr(layer, "self_attn") for layer in layers)
    patches = len(cast("dict[str, Tensor]", batch)["pixel_values"])
    assert calls == [patches] * vision + [sum(batch["lengths"])] * language


def test_what_is_wrong_with_a_packed_batch_is_said(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = tuned(worded_model)
    batch: dict[str, Any] = dict(collator(backbone, packed=True)(questions[:2]))
    check = backbone.family.check_images
    check(backbone.processor, batch)
    for broken, said in (
        ({"input_ids": batch["input_ids"][:, :-1]}, "was the sequence cut"),
        ({"image_grid_thw": batch["image_grid_thw"][:1]}, "the images have"),
        ({"image_at": batch["image_at"] + 1}, "other places"),
    ):
        with pytest.raises(ValueError, match=said):
            check(backbone.processor, batch | broken)


def test_attention_under_autocast_takes_mixed_types() -> None:
    """Rotary positions leave queries and keys in float32, values come out of a linear layer in bfloat16."""
    query, key, value = (torch.randn(9, heads, 8) for heads in (4, 2, 2))
    among = Samples.of([4, 2, 3], query.device)
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(query, key, value.bfloat16(), among, causal=True)
    expected = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), among, causal=True)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
