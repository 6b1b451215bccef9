"""What is computed in fewer passes, or not at all, is what transformers computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as theirs

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX, ImageQuestion
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import LoRA
from emo_lightning.models.families.qwen_layers import RowNorm, apply_rotary
from tests.models.test_branches import together
from tests.models.test_packing import KEYS, close, collator, learned, questions, tuned  # noqa: F401 - fixture
from tests.worded import worded_qwen  # noqa: F401 - fixture


def differentiated(computed: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Output and gradients."""
    leaves = [part.detach().clone().requires_grad_() for part in inputs]
    out = computed(*leaves)
    weigh = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out)
    return [out, *torch.autograd.grad((out * weigh).sum(), leaves)]


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_the_norm(dtype: torch.dtype, off: float) -> None:
    torch.manual_seed(0)
    norm = theirs.Qwen2_5_VLRMSNorm(24, eps=1e-6)
    weight = (torch.rand(24) + 0.5).to(dtype)
    states = (3 * torch.randn(2, 5, 24)).to(dtype)

    def by(kind: type[theirs.Qwen2_5_VLRMSNorm]) -> Callable[[Tensor, Tensor], Tensor]:
        norm.__class__ = kind
        return lambda x, w: cast(Tensor, torch.func.functional_call(norm, {"weight": w}, (x,)))

    expected = differentiated(by(theirs.Qwen2_5_VLRMSNorm), states, weight)
    for found, other in zip(differentiated(by(RowNorm), states, weight), expected, strict=True):
        assert found.dtype == other.dtype
        torch.testing.assert_close(found, other, atol=off * float(other.detach().abs().max()), rtol=0)


def test_rotary_positions_are_the_same_to_the_bit() -> None:
    torch.manual_seed(0)
    states, angles = torch.randn(7, 3, 8), torch.randn(7, 1, 4)
    cos, sin = (torch.cat([part, part], -1) for part in (angles.cos(), angles.sin()))
    signed = torch.cat([-sin[..., :4], sin[..., 4:]], -1)
    expected = differentiated(lambda x: x * cos + theirs.rotate_half(x) * sin, states)
    for found, other in zip(differentiated(lambda x: apply_rotary(x, cos, signed), states), expected, strict=True):
        assert found.equal(other)


def without_ends(batch: ChatBatch) -> ChatBatch:
    return cast(ChatBatch, {name: value for name, value in batch.items() if name != "answer_ends"})


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_the_last_layer_computes_what_the_loss_reads(
    worded_qwen: Path,  # noqa: F811
    questions: list[ImageQuestion],  # noqa: F811
    tuning: str,
) -> None:
    """Loss and gradients are those of all states; rows in which questions share an image among them."""
    more: dict[str, Any] = {"lora": LoRA(rank=2, dropout=0.0)} if tuning == "lora" else {}
    backbone = tuned(worded_qwen, {"tuning": tuning, **more})
    *_, before, last = backbone.family.layers(backbone.base)
    tokens: dict[str, int] = {}
    for name, layer in (("before", before), ("last", last)):
        layer.get_submodule("mlp").register_forward_hook(
            lambda _module, _inputs, out, name=name: tokens.update({name: out.shape[1]})
        )
    packed = collator(backbone, packed=True)
    for row in (questions[:5], [together(questions[0], KEYS), questions[1], together(questions[3], KEYS[1:])]):
        batch = packed(row)
        options = {"soft": True, "distribution_weight": 0.5}
        expected = learned(backbone, without_ends(batch), options)
        assert tokens == dict.fromkeys(("before", "last"), batch["input_ids"].shape[1])
        found = learned(backbone, batch, options)
        assert tokens == {"before": batch["input_ids"].shape[1], "last": sum(batch["answer_ends"])}
        assert found.loss == pytest.approx(expected.loss, rel=1e-6)
        assert found.gradients.keys() == expected.gradients.keys()
        assert all(close(found.gradients[name], expected.gradients[name]) for name in expected.gradients)
        lengths = batch["lengths"]
        assert backbone.step_flops(batch, lengths) < backbone.step_flops(without_ends(batch), lengths)


def test_ends_reach_back_to_the_token_before_the_answer(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    packed = collator(tuned(worded_qwen), packed=True)
    batch = packed([together(questions[0], KEYS), questions[1]])
    pieces = [length for of_image in batch["branches"] for length in of_image]
    (shared, *first), second = batch["answer_ends"][:4], batch["answer_ends"][4]
    assert shared == 0
    for piece, count in zip(batch["labels"][0].split(pieces), [shared, *first, second], strict=True):
        targets = (piece != IGNORE_INDEX).nonzero()[:, 0].tolist()
        assert targets == list(range(len(piece) - count + 1, len(piece))) if count else not targets


def test_a_row_of_fillers_reaches_every_weight(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    from dataclasses import replace

    backbone: Backbone = tuned(worded_qwen)
    batch = collator(backbone, packed=True)([replace(one, filler=True) for one in questions[:3]])
    assert batch["answer_ends"] == [1, 1, 1]
    found = learned(backbone, batch, {})
    assert (found.loss, found.count) == (0, 0)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert found.gradients.keys() == trained
    assert not any(bool(gradient.any()) for gradient in found.gradients.values())
