"""How far a picture is from the training pictures: is it like anything that a model was trained on?

A picture is described by its embedding (DES), by the vision tower's states (last block, averaged over the picture's patches), and by how
its patches are made: of each patch the distance of its pixels from a Gaussian that is fitted to those of training pictures, its contrast, and
how large the steps from pixel to pixel are (root mean square, and the median); seven quantiles over the patches of the logarithm of each stand for
a picture. The first two know what is shown, the rest whether it is drawn, photographed or printed; none alone tells photographs from the demo's
drawings well, all together do (experiments/LOG.md).

A second Gaussian is fitted to the descriptions of the training pictures, and the score of a picture is its Mahalanobis distance (Lee et al.
2018, arXiv:1807.03888), with one covariance for all emotions. Both covariances are shrunk: beyond their largest principal axes they are the
same in all directions (probabilistic PCA: Tipping and Bishop 1999, equations 7 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple, Self

import torch
from scipy.linalg import eigh
from torch import Tensor, nn

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import write_made_of
from emo_lightning.models.families.patches import CHANNELS
from emo_lightning.models.moments import Moments, moments
from emo_lightning.models.weights import load_network, save_network

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""Over a picture's patches."""
PATCH_NUMBERS = 4
"""Of each patch: distance, contrast, typical and median step."""
SPREAD_DIM = len(QUANTILES) * PATCH_NUMBERS
"""Numbers that say how the patches of a picture are made."""
PATCH_AXES = 64
MAX_AXES = 512
IMAGES_AN_AXIS = 8
"""Fewer would fit noise."""
MIN_STEP = 1e-3
"""A quarter of the smallest step between two pixels: of a patch without any, the logarithm is taken of this."""
PATCH_FLOOR = 1e-2
"""Share of the widest direction's variance below which the pixels of patches are taken for noise."""
PATCH_IMAGES = 256
"""Training pictures that the Gaussian of patches is fitted to: each has dozens of patches, or thousands."""


class TooFewImagesError(InputError):
    """No threshold can be set with so few validation images."""


class SeenPictures(NamedTuple):
    """What a model has seen of B pictures with P patches in all."""

    des: Tensor
    """(B, des_dim)"""
    vision: Tensor
    """(B, width of the vision tower): what leaves its last block, averaged over a picture's patches."""
    patches: Tensor
    """(P, values of a patch): its pixels, as bytes or as the processor normalises them."""
    counts: Sequence[int]
    """Patches of each picture."""


class Gaussian(nn.Module):
    """A normal distribution with a shrunk covariance.

    Args:
        width: D, of its vectors.
        axes: principal axes that are kept.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(self, width: int, axes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        # Rows are axes of unit length, by falling variance; `rest` is the variance of every direction beyond them.
        self.register_buffer("components", torch.zeros(axes, width))
        self.register_buffer("variances", torch.ones(axes))
        self.register_buffer("rest", torch.ones(()))

    @classmethod
    def fit(cls, found: Moments, axes: int, floor: float = 1e-6) -> Self:
        """With the `axes` largest axes, and no variance below a share of the largest."""
        width = len(found.mean)
        axes = max(1, min(axes, width - 1, found.size - 1))
        covariance = (found.deviations / found.size).numpy()
        # Ascending, the largest alone.
        variances, directions = eigh(covariance, subset_by_index=[width - axes, width - 1])
        # Equation 8: what is lost, spread over all directions that are.
        rest = float(covariance.trace() - variances.sum()) / (width - axes)
        least = max(rest, floor * float(variances[-1]), torch.finfo(torch.float32).tiny)
        fitted = cls(width, axes)
        fitted.mean.copy_(found.mean)
        fitted.components.copy_(torch.from_numpy(directions[:, ::-1].T.copy()))
        fitted.variances.copy_(torch.from_numpy(variances[::-1].copy()).clamp(min=least))
        fitted.rest.fill_(least)
        return fitted

    def forward(self, vectors: Tensor) -> Tensor:
        """Squared Mahalanobis distances over D, about 1 on what it was fitted to: (N, D) to (N,)."""
        deviation = vectors - self.mean
        along = deviation @ self.components.T
        beyond = (deviation - along @ self.components).square().sum(-1)
        return ((along.square() / self.variances).sum(-1) + beyond / self.rest) / deviation.shape[-1]


class TrainingSpread(nn.Module):
    """Where the training pictures lie, and the distance that counts as far.

    Args:
        des_dim: numbers of an embedding.
        vision_dim: width of the vision tower.
        patch_dim: values of a patch.
        patch_axes: principal axes of the patches that are kept.
        axes: of the descriptions.
        train_images: that all is fitted to.
        val_images: that the threshold is set on.
        false_alarms: share of images like the validation set's whose score is above the threshold, at most (on average).
        threshold: of the scores.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    scale: Tensor

    def __init__(
        self,
        des_dim: int,
        vision_dim: int,
        patch_dim: int,
        patch_axes: int,
        axes: int,
        train_images: int,
        val_images: int,
        false_alarms: float,
        threshold: float,
    ) -> None:
        super().__init__()
        self.des_dim, self.vision_dim, self.patch_dim, self.patch_axes, self.axes = (
            des_dim,
            vision_dim,
            patch_dim,
            patch_axes,
            axes,
        )
        self.train_images, self.val_images, self.false_alarms, self.threshold = (
            train_images,
            val_images,
            false_alarms,
            threshold,
        )
        for name in ("des_dim", "vision_dim", "patch_dim", "patch_axes", "axes", "train_images", "val_images"):
            if getattr(self, name) < 1:
                msg = f"{name} is {getattr(self, name)}; expected at least 1"
                raise InputError(msg)
        if not 0 < false_alarms < 1 or not 0 < threshold < math.inf:
            msg = f"false_alarms is {false_alarms}, threshold is {threshold}; expected a share between 0 and 1, and a number above 0"
            raise InputError(msg)
        width = des_dim + vision_dim + SPREAD_DIM
        self.patches = Gaussian(patch_dim, patch_axes)
        self.described = Gaussian(width, axes)
        # 1 / standard deviation of each number of a description: they have no common unit.
        self.register_buffer("scale", torch.ones(width))

    @classmethod
    @torch.no_grad()
    def fit(cls, train: Iterable[SeenPictures], val: Iterable[SeenPictures], false_alarms: float = 0.05) -> Self:
        """Of training pictures, with the threshold that the pictures of a validation set give.

        The threshold is the ceil((n + 1)(1 - false_alarms))-th smallest score of n validation images: an image that is exchangeable with
        them is above it with a probability of at most `false_alarms` (split conformal prediction; Vovk et al. 2005).

        Args:
            train: in an order of no meaning: patches are fitted to the first `PATCH_IMAGES` pictures.
            val: pictures that nothing was trained on.
            false_alarms: see above.

        Raises:
            TooFewImagesError: of the validation set, for that share of false alarms.
            InputError: no image, or a value that is not finite.
        """
        coming = iter(train)
        first = list(_first(coming, PATCH_IMAGES))
        if not first:
            msg = "no training picture to take statistics from"
            raise InputError(msg)
        pixels = moments((_pixels(one.patches) for one in first), first[0].patches.shape[1], "patch")
        patches = Gaussian.fit(pixels, PATCH_AXES, PATCH_FLOOR)
        width = first[0].des.shape[1] + first[0].vision.shape[1] + SPREAD_DIM
        found = moments((_described(one, patches) for one in chain(first, coming)), width, "training picture")
        deviation = (found.deviations.diagonal() / found.size).sqrt()
        scale = torch.where(deviation > 0, 1 / deviation.clamp(min=1e-12), 0.0)
        scaled = Moments(found.size, found.mean * scale, scale[:, None] * found.deviations * scale)
        described = Gaussian.fit(scaled, min(MAX_AXES, found.size // IMAGES_AN_AXIS))
        sizes = (first[0].des.shape[1], first[0].vision.shape[1], first[0].patches.shape[1])
        spread = cls(*sizes, len(patches.variances), len(described.variances), found.size, 1, false_alarms, 1.0)
        spread.patches.load_state_dict(patches.state_dict())
        spread.described.load_state_dict(described.state_dict())
        spread.scale.copy_(scale)
        scores = torch.cat([torch.zeros(0), *(spread(one).cpu() for one in val)]).double().sort().values
        rank = math.ceil((len(scores) + 1) * (1 - false_alarms) - 1e-9)
        if rank > len(scores):
            need = math.ceil((1 - false_alarms) / false_alarms - 1e-9)
            msg = f"{len(scores)} validation images: too few for a share of {false_alarms:g} of false alarms; at least {need} are needed"
            raise TooFewImagesError(msg)
        spread.val_images, spread.threshold = len(scores), float(scores[rank - 1])
        return spread.eval()

    @torch.no_grad()
    def forward(self, seen: SeenPictures) -> Tensor:
        """Scores of B pictures, (B,) float32: about 1 on the training pictures.

        Raises:
            InputError: they were seen by another model.
        """
        found = (seen.des.shape[1], seen.vision.shape[1], seen.patches.shape[1])
        if found != (self.des_dim, self.vision_dim, self.patch_dim):
            msg = f"the spread is of (des, vision, patch) = {(self.des_dim, self.vision_dim, self.patch_dim)} numbers; here they are {found}"
            raise InputError(msg)
        scores: Tensor = self.described(_described(seen, self.patches) * self.scale)
        return scores.sqrt()

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments."""
        sizes = ("des_dim", "vision_dim", "patch_dim", "patch_axes", "axes")
        return {name: getattr(self, name) for name in (*sizes, "train_images", "val_images", "false_alarms", "threshold")}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        save_network(self, directory, self.config)

    def save_as_part(self, directory: str | Path, backbone: str, prompt: str) -> None:
        """Write the folder of a part of a model, with what it is of.

        Args:
            directory: of the part.
            backbone: content hash.
            prompt: objective at which the hidden states are taken.
        """
        self.save_pretrained(directory)
        write_made_of(directory, {"backbone": backbone, "prompt": prompt})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read a folder of `save_pretrained`; raises as `DESHead.from_pretrained`, and where a variance is not above 0."""
        spread = load_network(cls, directory)
        if not all(bool((one.variances > 0).all() and one.rest > 0) for one in (spread.patches, spread.described)):
            msg = f"{directory}: the spread has variances that are not above 0"
            raise InputError(msg)
        return spread


def _first(coming: Iterator[SeenPictures], images: int) -> Iterator[SeenPictures]:
    """So many pictures, about, of the front."""
    while images > 0 and (one := next(coming, None)) is not None:
        images -= len(one.counts)
        yield one


def _pixels(patches: Tensor) -> Tensor:
    return patches.float() / 255 if patches.dtype == torch.uint8 else patches.float()


def _described(seen: SeenPictures, patches: Gaussian) -> Tensor:
    """(B, des_dim + vision_dim + MADE) float32."""
    pixels = _pixels(seen.patches).to(patches.mean.device)
    numbers = torch.stack([patches(pixels).clamp(min=1e-6).log(), *_made(pixels)], 1)  # (P, PATCH_NUMBERS)
    at = numbers.new_tensor(QUANTILES)
    made = torch.stack([one.quantile(at, 0).flatten() for one in numbers.split(list(seen.counts))])
    return torch.cat([part.float().to(made.device) for part in (seen.des, seen.vision, made)], 1)


def _made(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of the contrast, the root mean square step and the median step of patches (P, channels · frames · side²), (P,) each."""
    values = pixels.shape[1] // CHANNELS
    # One frame, or two that are alike.
    side = math.isqrt(values) if math.isqrt(values) ** 2 == values else math.isqrt(values // 2)
    grey = pixels.unflatten(1, (CHANNELS, -1)).mean(1)[:, : side * side].unflatten(1, (side, side))
    across, down = grey.diff(dim=2), grey.diff(dim=1)
    steps = across.square().mean((1, 2)).sqrt() + down.square().mean((1, 2)).sqrt()
    found = grey.flatten(1).std(1, correction=0), steps, across.abs().flatten(1).median(1).values
    contrast, typical, median = ((one + MIN_STEP).log() for one in found)
    return contrast, typical, median
