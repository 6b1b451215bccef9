"""The distance from the training images: the Gaussian of the formula, and a threshold that keeps its promise."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.models.spread import Spread, TooFewImagesError, features

LAYERS, HIDDEN, TOKENS = 2, 6, 5


def images(count: int, seed: int, spread: float = 1.0) -> list[tuple[Tensor, Tensor]]:
    """Hidden states of images that differ most along one direction, in batches of seven."""
    random = torch.Generator().manual_seed(seed)
    along = torch.randn(LAYERS, 1, 1, HIDDEN, generator=torch.Generator().manual_seed(99))
    states = torch.randn(LAYERS, count, TOKENS, HIDDEN, generator=random) * spread
    states += 3 * along * torch.randn(1, count, 1, 1, generator=random) + 2
    mask = torch.ones(count, TOKENS, dtype=torch.bool)
    mask[::2, -2:] = False
    return list(zip(states.split(7, 1), mask.split(7), strict=True))


def fitted(axes: int = 3) -> Spread:
    return Spread.fit(HIDDEN, LAYERS, lambda: images(120, 0), lambda: images(39, 1), 0.05, axes)


def of_all(batches: list[tuple[Tensor, Tensor]]) -> np.ndarray:
    return torch.cat([features(*batch) for batch in batches]).double().numpy()


def test_scores_are_those_of_the_formula() -> None:
    """Mahalanobis distance with the covariance of probabilistic PCA, written out."""
    spread, known, asked = fitted(), of_all(images(120, 0)), of_all(images(39, 1))
    variances, axes = np.linalg.eigh(np.cov(known.T, bias=True))
    rest = variances[:-3].mean()
    covariance = rest * np.eye(LAYERS * HIDDEN) + axes[:, -3:] @ np.diag(variances[-3:] - rest) @ axes[:, -3:].T
    gaps = asked - known.mean(0)
    expected = np.sqrt(np.einsum("nd,de,ne->n", gaps, np.linalg.inv(covariance), gaps) / gaps.shape[1])
    scores = torch.cat([spread(*batch) for batch in images(39, 1)]).numpy()
    assert np.allclose(scores, expected, rtol=1e-4)
    # ceil(40 · 0.95) = 38th of 39.
    assert spread.threshold == pytest.approx(np.sort(expected)[37], rel=1e-4)
    assert (spread.train_images, spread.val_images) == (120, 39)


def test_images_like_those_of_validation_are_seldom_called_unlike() -> None:
    spread = fitted()
    shares = [
        float((torch.cat([spread(*b) for b in images(200, seed)]) > spread.threshold).float().mean()) for seed in range(2, 7)
    ]
    assert np.mean(shares) < 0.1
    strange = torch.cat([spread(*batch) for batch in images(50, 8, spread=6.0)])
    assert bool((strange > spread.threshold).all())


def test_padding_and_the_batch_change_nothing() -> None:
    spread = fitted()
    ((hidden, mask), *_) = images(7, 1)
    whole = spread(hidden, mask)
    alone = torch.cat([spread(hidden[:, n : n + 1], mask[n : n + 1]) for n in range(7)])
    assert torch.allclose(whole, alone, rtol=1e-5)
    spoilt = hidden.masked_fill(~mask[None, :, :, None], math.nan)
    assert torch.allclose(spread(spoilt, mask), whole, rtol=1e-5)


def test_more_directions_than_images_can_be_inverted() -> None:
    few = Spread.fit(HIDDEN, LAYERS, lambda: images(4, 0), lambda: images(39, 1))
    assert few.axes == 3
    assert bool(torch.cat([few(*batch) for batch in images(39, 1)]).isfinite().all())


def test_too_few_images_are_named() -> None:
    with pytest.raises(
        TooFewImagesError, match=r"18 validation images: too few .* 0\.05 of false alarms; at least 19 are needed"
    ):
        Spread.fit(HIDDEN, LAYERS, lambda: images(40, 0), lambda: images(18, 1))
    assert Spread.fit(HIDDEN, LAYERS, lambda: images(40, 0), lambda: images(19, 1)).val_images == 19

    def nothing() -> Iterator[tuple[Tensor, Tensor]]:
        yield from ()

    with pytest.raises(InputError, match="no training image to take statistics from"):
        Spread.fit(HIDDEN, LAYERS, nothing, nothing)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    spread = fitted()
    spread.save_pretrained(tmp_path)
    again = Spread.from_pretrained(tmp_path)
    for batch in images(39, 1):
        assert torch.equal(spread(*batch), again(*batch))
    said = json.loads((tmp_path / "config.json").read_text())
    assert said == {
        "class": "Spread",
        "hidden_size": HIDDEN,
        "num_layers": LAYERS,
        "axes": 3,
        "train_images": 120,
        "val_images": 39,
        "false_alarms": 0.05,
        "threshold": spread.threshold,
    }
    for change, message in (
        ({"threshold": 0}, "threshold is 0; expected"),
        ({"axes": 0}, "axes is 0; expected at least 1"),
        ({"axes": 4}, "components has shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(InputError, match=message):
            Spread.from_pretrained(tmp_path)
    spread.rest.fill_(-1)
    spread.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="variances that are not above 0"):
        Spread.from_pretrained(tmp_path)
