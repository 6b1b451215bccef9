"""The vision tower's windows in one call a layer: the same numbers as transformers' window by window."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.families import attention
from emo_lightning.models.families.attention import VISION_ATTENTION, attend_in_samples
from emo_lightning.models.families.samples import Samples
from emo_lightning.models.loading import load_backbone

if TYPE_CHECKING:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

LAYERS = 3


@pytest.fixture
def tower() -> Qwen2_5_VisionTransformerPretrainedModel:
    """Windows of 4 × 4 patches in two layers, whole images in the third."""
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

    torch.manual_seed(0)
    config = Qwen2_5_VLVisionConfig(
        depth=LAYERS,
        hidden_size=32,
        num_heads=4,
        intermediate_size=48,
        out_hidden_size=24,
        window_size=56,
        fullatt_block_indexes=[1],
    )
    config._attn_implementation = "sdpa"
    return Qwen2_5_VisionTransformerPretrainedModel(config).eval()


def embedded(tower: Qwen2_5_VisionTransformerPretrainedModel, grids: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """What the tower says of noise, and the gradient of its first layer."""
    grid = torch.tensor([(1, height, width) for height, width in grids])
    pixels = torch.randn(int(grid.prod(1).sum()), 3 * 2 * 14 * 14, generator=torch.Generator().manual_seed(1))
    out = tower(pixels, grid_thw=grid).pooler_output
    tower.zero_grad()
    out.square().sum().backward()
    gradient = dict(tower.named_parameters())["blocks.0.attn.qkv.weight"].grad
    assert gradient is not None
    return out, gradient


@pytest.mark.parametrize(
    "grids",
    [
        pytest.param([(8, 8), (8, 8)], id="all windows full"),
        pytest.param([(4, 4)], id="one window"),
        pytest.param([(6, 10), (4, 4), (14, 2)], id="cut windows, images of several sizes"),
    ],
)
def test_equals_window_by_window(
    tower: Qwen2_5_VisionTransformerPretrainedModel, grids: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, expected_gradient = embedded(tower, grids)
    attend_in_samples(tower, VISION_ATTENTION)
    calls: list[int] = []
    attend: Callable[..., Tensor] = attention.attend

    def counted(query: Tensor, *arguments: object, **options: object) -> Tensor:
        calls.append(1)
        return attend(query, *arguments, **options)

    monkeypatch.setattr(attention, "attend", counted)
    found, gradient = embedded(tower, grids)
    assert len(calls) == LAYERS
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(gradient, expected_gradient, atol=1e-4, rtol=1e-4)


def test_the_backbone_uses_it_and_saves_nothing_of_it(tiny_qwen: Path, tmp_path: Path) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="full"))
    assert backbone.base.model.visual.config._attn_implementation == "windowed_flash_sdpa"
    assert backbone.base.model.language_model.config._attn_implementation == "packed_sdpa"
    saved = (backbone.save(tmp_path) / "config.json").read_text()
    assert "windowed" not in saved
    assert "packed" not in saved
    eager = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen", attention="eager"))
    assert eager.base.model.visual.config._attn_implementation == "eager"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("mixed", [False, True], ids=["true", "mixed"])
def test_text_in_16_bits_on_a_cpu(kind: torch.dtype, mixed: bool) -> None:
    """As in float32 but for the rounding of what goes in and comes out; the same with and without a gradient."""
    text = partial(attention.attend, among=Samples.of((5, 9, 5), torch.device("cpu")), causal=True)
    draw = torch.Generator().manual_seed(0)
    rounded = [torch.randn(19, heads, 16, generator=draw).to(kind) for heads in (4, 2, 2)]
    # Rotary positions make queries and keys float32 under mixed precision.
    types = (torch.float32, torch.float32, kind) if mixed else (kind, kind, kind)
    with torch.autocast("cpu", kind, enabled=mixed):
        given = [part.to(type_).requires_grad_() for part, type_ in zip(rounded, types, strict=True)]
        found = text(*given)
        assert found.dtype == kind
        with torch.no_grad():
            assert torch.equal(text(*given), found)
    wide = [part.detach().float().requires_grad_() for part in rounded]
    expected = text(*wide)
    assert torch.equal(found, expected.to(kind))
    outer = torch.randn(expected.shape, generator=draw).to(kind)
    found.backward(outer)
    expected.backward(outer.float())
    for mine, its in zip(given, wide, strict=True):
        assert mine.grad is not None
        assert its.grad is not None
        assert torch.equal(mine.grad.to(kind), its.grad.to(kind))
