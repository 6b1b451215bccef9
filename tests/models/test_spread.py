"""The distance from the training pictures: the Gaussians of the formula, and a threshold that keeps its promise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emo_lightning.core.errors import InputError
from emo_lightning.models.moments import moments
from emo_lightning.models.spread import SPREAD_DIM, Gaussian, SeenPictures, TooFewImagesError, TrainingSpread

DES, VISION, PATCH = 6, 5, 48


def pictures(count: int, seed: int, noise: float = 1.0) -> list[SeenPictures]:
    """Pictures of three to six patches, in batches of up to seven; their numbers differ most along one direction."""
    random = torch.Generator().manual_seed(seed)
    along = torch.randn(DES, generator=torch.Generator().manual_seed(99))
    found = []
    for start in range(0, count, 7):
        size = min(7, count - start)
        counts = [3 + (start + n) % 4 for n in range(size)]
        des = 2 + noise * torch.randn(size, DES, generator=random) + 9 * torch.randn(size, 1, generator=random) * along
        vision = 100 * torch.randn(size, VISION, generator=random)
        patches = torch.randint(60, 200, (sum(counts), PATCH), generator=random).to(torch.uint8)
        found.append(SeenPictures(des, vision, patches, counts))
    return found


def fitted(seed: int = 0) -> TrainingSpread:
    return TrainingSpread.fit(pictures(400, seed), pictures(39, 1))


def test_a_gaussian_is_that_of_the_formula() -> None:
    """Mahalanobis distance with the covariance of probabilistic PCA, written out."""
    known, asked = torch.randn(80, 8) * torch.arange(1, 9), torch.randn(20, 8)
    gaussian = Gaussian.fit(moments(known.split(30), 8, "vector"), 3)
    variances, axes = np.linalg.eigh(np.cov(known.numpy().T, bias=True))
    rest = variances[:-3].mean()
    covariance = rest * np.eye(8) + axes[:, -3:] @ np.diag(variances[-3:] - rest) @ axes[:, -3:].T
    gaps = asked.numpy() - known.numpy().mean(0)
    expected = np.einsum("ni,ij,nj->n", gaps, np.linalg.inv(covariance), gaps) / 8
    assert np.allclose(gaussian(asked).numpy(), expected, rtol=1e-3)


def test_the_threshold_is_a_quantile_of_the_validation_images() -> None:
    spread = fitted()
    scores = torch.cat([spread(one) for one in pictures(39, 1)]).sort().values
    # ceil(40 · 0.95) = 38th of 39.
    assert spread.threshold == pytest.approx(float(scores[37]), rel=1e-6)
    assert (spread.train_images, spread.val_images, spread.described.mean.shape) == (400, 39, (DES + VISION + SPREAD_DIM,))


def test_images_like_those_of_validation_are_seldom_called_unlike() -> None:
    spread = fitted()

    def share(asked: list[SeenPictures]) -> float:
        return float((torch.cat([spread(one) for one in asked]) > spread.threshold).float().mean())

    assert np.mean([share(pictures(200, seed)) for seed in range(2, 7)]) < 0.1
    assert share(pictures(50, 8, noise=30.0)) > 0.9
    # Too usual is unusual, too: all patches alike, as no training picture has them.
    flat = [one._replace(patches=torch.full_like(one.patches, 130)) for one in pictures(50, 8)]
    assert share(flat) > 0.9


def test_the_batch_changes_nothing() -> None:
    spread, (seen, *_) = fitted(), pictures(7, 1)
    patches = seen.patches.split(list(seen.counts))
    alone = [spread(SeenPictures(seen.des[n : n + 1], seen.vision[n : n + 1], patches[n], [seen.counts[n]])) for n in range(7)]
    assert torch.allclose(spread(seen), torch.cat(alone), rtol=1e-5)


def test_too_few_images_are_named() -> None:
    with pytest.raises(
        TooFewImagesError, match=r"18 validation images: too few .* 0\.05 of false alarms; at least 19 are needed"
    ):
        TrainingSpread.fit(pictures(40, 0), pictures(18, 1))
    few = TrainingSpread.fit(pictures(4, 0), pictures(19, 1))
    assert (few.val_images, few.axes) == (19, 1)
    with pytest.raises(InputError, match="no training picture to take statistics from"):
        TrainingSpread.fit([], pictures(19, 1))


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    spread = fitted()
    spread.save_pretrained(tmp_path)
    again = TrainingSpread.from_pretrained(tmp_path)
    (seen, *_) = pictures(7, 1)
    assert torch.equal(spread(seen), again(seen))
    said = json.loads((tmp_path / "config.json").read_text())
    assert said == {"class": "TrainingSpread", **spread.config}
    assert (said["train_images"], said["val_images"], said["false_alarms"]) == (400, 39, 0.05)
    with pytest.raises(InputError, match=r"\(des, vision, patch\) = \(6, 5, 48\) numbers; here they are \(6, 4, 48\)"):
        again(seen._replace(vision=seen.vision[:, 1:]))
    for change, message in (
        ({"threshold": 0}, "threshold is 0; expected"),
        ({"axes": 0}, "axes is 0; expected at least 1"),
        ({"patch_axes": 4}, "patches.components has shape"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(said | change))
        with pytest.raises(InputError, match=message):
            TrainingSpread.from_pretrained(tmp_path)
    spread.patches.rest.fill_(-1)
    spread.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="variances that are not above 0"):
        TrainingSpread.from_pretrained(tmp_path)
