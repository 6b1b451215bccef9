from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from emo_lightning.metrics.classification import classification_metrics, classification_scores


def test_scores_agree_with_sklearn() -> None:
    truth, said = np.random.default_rng(0).integers(0, 8, (2, 200))
    got = classification_scores(torch.from_numpy(said), torch.from_numpy(truth))
    macro = precision_recall_fscore_support(truth, said, average="macro")[:3]
    expected = [100 * v for v in (accuracy_score(truth, said), *macro)]
    assert list(got.values()) == pytest.approx(expected, abs=1e-4)
    assert list(got) == ["accuracy", "precision", "recall", "f1"]


@pytest.mark.parametrize("classes", [8, 3])
def test_batches_give_what_the_whole_gives(classes: int) -> None:
    """To the last digit; with three of eight classes there, the others are left out of the means."""
    truth, said = torch.from_numpy(np.random.default_rng(1).integers(0, classes, (2, 100)))
    metrics = classification_metrics()
    for start in range(0, 100, 7):
        metrics.update(said[start : start + 7], truth[start : start + 7])
    whole = classification_scores(said, truth)
    assert {name: 100 * float(value) for name, value in metrics.compute().items()} == whole
    assert whole["recall"] > 0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="same"):
        classification_scores(torch.tensor([1]), torch.tensor([1, 2]))
