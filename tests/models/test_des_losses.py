"""Objectives of the DES head against plain loops."""

import math

import torch
from torch.nn import functional

from emo_lightning.models.des_losses import intensity_squared_error, soft_cross_entropy, supervised_contrastive

NAN = math.nan


def test_soft_cross_entropy_leaves_out_fillers_and_rows_without_label() -> None:
    logits = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    target = torch.rand(4, 8, dtype=torch.float64)
    target /= target.sum(-1, keepdim=True)
    target[1] = NAN
    total, labelled = soft_cross_entropy(logits, target, torch.tensor([True, True, True, False]))
    assert labelled.tolist() == [True, False, True, False]
    expected = sum(-(target[i] * logits[i].log_softmax(-1)).sum() for i in (0, 2))
    torch.testing.assert_close(total, expected)
    total.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad[[1, 3]] == 0).all()


def test_intensity_is_compared_on_a_unit_scale() -> None:
    predicted = torch.tensor([0.0, 1.0, 0.5, 0.3], requires_grad=True)
    total, labelled = intensity_squared_error(
        predicted, torch.tensor([10.0, 10.0, NAN, 1.0]), torch.tensor([True, True, True, False])
    )
    assert labelled.tolist() == [True, True, False, False]
    torch.testing.assert_close(total, torch.tensor(1.0))
    total.backward()
    assert predicted.grad is not None
    assert predicted.grad.tolist() == [-2.0, 0.0, 0.0, 0.0]


def test_supervised_contrastive_equals_loops() -> None:
    torch.manual_seed(0)
    z = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, -1])
    counted = torch.tensor([True, True, True, True, False, True, True])
    total = supervised_contrastive(z, labels, counted, 0.2)
    unit = functional.normalize(z, dim=-1)
    present = [0, 1, 2, 3, 5]
    expected = torch.zeros((), dtype=torch.float64)
    for i in present:
        others = [j for j in present if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        if positives:
            denominator = sum(torch.exp(unit[i] @ unit[j] / 0.2) for j in others)
            expected -= sum(torch.log(torch.exp(unit[i] @ unit[p] / 0.2) / denominator) for p in positives) / len(positives)
    torch.testing.assert_close(total, expected)
    total.backward()
    assert z.grad is not None
    assert z.grad.isfinite().all()
    assert (z.grad[[4, 6]] == 0).all()


def test_supervised_contrastive_without_anchor_is_zero() -> None:
    z = torch.randn(3, 4, requires_grad=True)
    total = supervised_contrastive(z, torch.tensor([0, 1, -1]), torch.tensor([True, True, True]), 0.1)
    total.backward()
    assert float(total) == 0
    assert z.grad is not None
    assert (z.grad == 0).all()
