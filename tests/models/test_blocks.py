"""Blocks that are compiled or computed again learn what they learned before."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import Collator
from emo_lightning.data.sampler import Slot
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.blocks import compile_blocks
from emo_lightning.models.families import attention
from emo_lightning.models.loading import load_backbone
from tests.models.families.tiny_qwen3_5 import build_qwen3_5
from tests.tasks.test_sft import data


def batches(backbone: Backbone, tars: Path) -> list[ChatBatch]:
    """Rows of many lengths."""
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    dataset = data(tars).dataset("train")
    sizes = [3, 4, 2, 5, 3, 4]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [
        collate([dataset[Slot(row, False)] for row in range(start, start + size)])
        for start, size in zip(starts, sizes, strict=True)
    ]


def gradients(backbone: Backbone, batch: ChatBatch) -> dict[str, Tensor]:
    backbone.zero_grad()
    backbone.answer_loss(batch)[0].backward()
    return {name: p.grad.clone() for name, p in backbone.named_parameters() if p.grad is not None}


def loaded(path: Path, **options: Any) -> Backbone:  # noqa: ANN401
    torch.manual_seed(0)
    lora = LoRA(rank=4, dropout=0.0)
    return load_backbone(
        BackboneConfig(str(path), tuning="lora", lora=lora, train_vision=True, dtype="float32", **options)
    ).train()


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_5"])
def model(request: pytest.FixtureRequest, tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Full attention alone, and linear attention between, whose states go along the row."""
    if request.param == "qwen2_5_vl":
        return tiny_qwen
    return build_qwen3_5(tmp_path_factory.mktemp("qwen35") / "model", tiny_qwen)


def test_blocks_are_compiled_once_for_rows_of_all_lengths(
    world_tars: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.utils import counters

    monkeypatch.setattr(attention, "attend", attention.attend)
    # It writes a line for every symbol, which nobody reads here.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    plain, compiled = loaded(model), loaded(model)
    compile_blocks(compiled.base, compiled.family, backend="eager")
    assert [name for name, _ in compiled.named_parameters()] == [name for name, _ in plain.named_parameters()]
    graphs = []
    counters.clear()
    for batch in batches(plain, world_tars):
        found, expected = gradients(compiled, batch), gradients(plain, batch)
        assert found.keys() == expected.keys()
        worst = max(
            float((found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1)) for name in found
        )
        assert worst < 1e-5
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert len(set(graphs[3:])) == 1, "compiled again for another length"


@pytest.mark.parametrize(("which", "checkpointed"), [(False, 0), (True, 4), ("every_2", 2), ("every_4", 1)])
def test_some_blocks_are_computed_again(world_tars: Path, tiny_qwen: Path, which: bool | str, checkpointed: int) -> None:
    backbone = loaded(tiny_qwen, gradient_checkpointing=which)
    layers = backbone.family.layers(backbone.base)
    runs = [0] * len(layers)
    for number, layer in enumerate(layers):

        def count(*_: object, number: int = number) -> None:
            runs[number] += 1

        layer.self_attn.register_forward_hook(count)  # type: ignore[union-attr]
    batch = batches(backbone, world_tars)[0]
    found, expected = gradients(backbone, batch), gradients(loaded(tiny_qwen), batch)
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    assert sum(count == 2 for count in runs) == checkpointed
    assert sum(runs) == len(layers) + checkpointed
