"""One image, all its questions: each answer learns, and is weighed, as if its question stood alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from emo_lightning.data.collate import ImageQuestion
from emo_lightning.models.backbone_config import LoRA
from emo_lightning.models.families.attention import attend
from emo_lightning.models.families.samples import Samples
from tests.models.test_packing import KEYS, Learner, collator, questions, tuned  # noqa: F401 - fixture
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

IMAGES = [[5], [7, 3, 4, 3], [2, 6], [7, 4, 3]]
"""Tokens of what is shared, and of each branch."""


def together(question: ImageQuestion, keys: list[tuple[str, ...]], shares: tuple[float, ...] = ()) -> ImageQuestion:
    """Several questions about one image."""
    return replace(question, keys=keys[0], more=tuple(keys[1:]), shares=shares)


@pytest.mark.parametrize("causal", [True, False])
def test_a_branch_sees_what_is_shared_and_itself(causal: bool) -> None:
    """Against one mask over the whole row, values and gradients."""
    torch.manual_seed(0)
    among = Samples.branched(IMAGES, torch.device("cpu"))
    image = torch.tensor([n for n, pieces in enumerate(IMAGES) for length in pieces for _ in range(length)])
    piece = torch.tensor([n for pieces in IMAGES for n, length in enumerate(pieces) for _ in range(length)])
    sees = (image[:, None] == image) & ((piece[:, None] == piece) | (piece == 0))
    if causal:
        sees = sees.tril()
    parts = [torch.randn(len(image), heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    query, key, value = parts
    found = attend(query, key, value, among, causal=causal)
    q, k, v = (part.transpose(0, 1) for part in parts)
    expected = functional.scaled_dot_product_attention(q[None], k[None], v[None], attn_mask=sees, enable_gqa=True)[0]
    torch.testing.assert_close(found, expected.transpose(0, 1))
    weigh = torch.randn_like(found)
    for one, other in zip(
        torch.autograd.grad((found * weigh).sum(), parts),
        torch.autograd.grad((expected.transpose(0, 1) * weigh).sum(), parts),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.gpu
def test_the_kernel_sees_the_same() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(sum(map(sum, IMAGES)), heads, 16, dtype=torch.bfloat16) for heads in (4, 2, 2))
    expected = attend(query, key, value, Samples.branched(IMAGES, torch.device("cpu")), causal=True)
    cuda = torch.device("cuda")
    found = attend(query.to(cuda), key.to(cuda), value.to(cuda), Samples.branched(IMAGES, cuda), causal=True)
    torch.testing.assert_close(found.cpu(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize(
    ("tuning", "options", "rows"),
    [
        pytest.param({"tuning": "full"}, {}, 30, id="full"),
        pytest.param({"tuning": "lora", "lora": LoRA(rank=2, dropout=0.0)}, {"soft": True}, 5, id="lora, soft labels"),
        pytest.param({"tuning": "full"}, {"distribution_weight": 0.7}, 5, id="full, distributions"),
        pytest.param({"tuning": "full", "gradient_checkpointing": True}, {"soft": True}, 3, id="checkpointing"),
    ],
)
def test_loss_and_gradients_are_those_of_the_questions_alone(
    worded_model: Path,  # noqa: F811
    questions: list[ImageQuestion],  # noqa: F811
    tuning: dict[str, Any],
    options: dict[str, Any],
    rows: int,
) -> None:
    learner = Learner(worded_model, tuning)
    single, packed = collator(learner.single, packed=False), collator(learner.single, packed=True)
    some = questions[:6]
    alone = [[learner.learned(single([replace(one, keys=keys)]), options) for keys in KEYS] for one in some]
    draw = np.random.default_rng(0)
    for _ in range(rows):
        row, whole = [], []
        for image in draw.integers(0, len(some), draw.integers(1, 4)).tolist():
            asked = draw.permutation(len(KEYS))[: draw.integers(1, len(KEYS) + 1)].tolist()
            shares = tuple(draw.dirichlet(np.ones(len(asked))).tolist())
            row.append(together(some[image], [KEYS[k] for k in asked], shares))
            whole += [(share, alone[image][k]) for share, k in zip(shares, asked, strict=True)]
        batch = packed(row)
        _, count = learner.single.answer_loss(batch, **options)
        assert float(count) == pytest.approx(sum(share * one.single.count for share, one in whole), rel=1e-6)
        learner.check(learner.learned(batch, options), whole)


def test_what_is_shared_is_computed_once(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = tuned(worded_model)
    packed = collator(backbone, packed=True)
    batch = packed([together(questions[0], KEYS), questions[1]])
    apart = packed([replace(questions[0], keys=keys) for keys in KEYS] + [questions[1]])
    first, *rest = batch["branches"][0]
    assert batch["branches"][1:] == [apart["lengths"][3:]]
    assert [first + one for one in rest] == apart["lengths"][:3]
    assert batch["input_ids"].shape[1] == sum(batch["lengths"]) == sum(apart["lengths"]) - 2 * first
    assert 3 * len(batch["pixel_values"]) > len(apart["pixel_values"])  # type: ignore[typeddict-item]
    assert backbone.step_flops(batch, batch["lengths"]) < backbone.step_flops(apart, apart["lengths"])
    # Without shares every target counts one.
    assert "label_weights" not in batch
    assert backbone.answer_loss(batch)[0].item() == pytest.approx(backbone.answer_loss(apart)[0].item(), rel=1e-5)
    with pytest.raises(ValueError, match="share an image in packed rows alone"):
        collator(backbone, packed=False)([together(questions[0], KEYS)])
