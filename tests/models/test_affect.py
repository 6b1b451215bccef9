"""The loss of valence, arousal and dominance, and the layer that is kept of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch

from emo_lightning.models.affect import AffectHead
from emo_lightning.models.des_losses import DES_LOSSES, LossInputs

NAN = math.nan


def test_valence_and_arousal_are_ratings_and_else_the_mean_of_anchors() -> None:
    said = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.0, 9.0], [1.0, 1.0, 1.0], [9.0, 9.0, 9.0]], requires_grad=True)
    target = torch.full((4, 8), NAN)
    target[1] = 0.0
    target[1, 1], target[1, 6] = 0.25, 0.75
    affect = torch.tensor([[1.0, NAN, 0.5], [NAN] * 3, [NAN] * 3, [0.0, 0.0, 0.0]])
    anchors = torch.full((8, 3), NAN)
    anchors[:, :2] = torch.tensor([[0.0, 0.0], [1.0, 0.4], *[[0.0, 0.0]] * 4, [-1.0, 0.8], [0.0, 0.0]])
    counted = torch.tensor([True, True, True, False])
    none = torch.full((4,), NAN)
    rated = LossInputs(torch.zeros(4, 5), said, target, none, none, counted, 0.1, affect)
    total, labelled = DES_LOSSES["va"].compute(rated)
    assert labelled is not None
    assert labelled.tolist() == [True, False, False, False]
    assert total.item() == (0.25 + 0.25) / 2
    total, labelled = DES_LOSSES["va"].compute(dataclasses.replace(rated, anchors=anchors))
    assert labelled is not None
    assert labelled.tolist() == [True, True, False, False]
    # 0.25 · (1, 0.4) + 0.75 · (-1, 0.8) = (-0.5, 0.7); the filler and the unknown dominance add nothing, not even to a gradient.
    assert math.isclose(total.item(), 0.25 + (0.25 + 0.49) / 2, rel_tol=1e-6)
    total.backward()
    assert said.grad is not None
    assert bool(said.grad.isfinite().all())
    assert said.grad[2:].abs().sum() == 0
    assert said.grad[1, 2] == 0


def test_the_layer_is_read_as_it_was_written(tmp_path: Path) -> None:
    head = AffectHead(6, "a norm")
    head.save_pretrained(tmp_path / "affect")
    again = AffectHead.from_pretrained(tmp_path / "affect")
    des = torch.randn(2, 6)
    assert torch.equal(again(des), head(des))
    assert (again.anchors, again.training) == ("a norm", False)
