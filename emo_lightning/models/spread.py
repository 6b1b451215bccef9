"""How far the hidden states of an image are from those of the training images: is it like anything that a model was trained on?

The features are those that the DES head reads: hidden states of the backbone's last layers at image and question, each brought to unit
root mean square as there, averaged over the tokens. A Gaussian is fitted to them on the training images, and the score of an image is its
Mahalanobis distance (Lee et al. 2018, arXiv:1807.03888), with one covariance for all emotions. That is shrunk: beyond its largest principal
axes it is the same in all directions (probabilistic PCA: Tipping and Bishop 1999, equations 7 and 8), so that it can be inverted whatever
the number of images, and stored in little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Self

import torch
from scipy.linalg import eigh
from torch import Tensor, nn

from emo_lightning.core.errors import InputError
from emo_lightning.models.des import unit_rms
from emo_lightning.models.moments import moments
from emo_lightning.models.weights import load_network, save_network

AXES = 64
"""Principal axes that are kept, at most."""

Batches = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Gives hidden states (layers, B, T, H) and masks (B, T), as `DESHead.forward` takes them."""


class TooFewImagesError(InputError):
    """No threshold can be set with so few validation images."""


class Spread(nn.Module):
    """Mean and shrunk covariance of the training images' features, and the distance that counts as far.

    Args:
        hidden_size: H, width of the backbone.
        num_layers: of the backbone's last, as many as the DES head reads.
        axes: principal axes that are kept.
        train_images: that mean and covariance are of.
        val_images: that the threshold is of.
        false_alarms: share of images like the validation set's whose score is above the threshold, at most (on average).
        threshold: of the scores.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    rest: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        axes: int,
        train_images: int,
        val_images: int,
        false_alarms: float,
        threshold: float,
    ) -> None:
        super().__init__()
        sizes = {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "axes": axes,
            "train_images": train_images,
            "val_images": val_images,
        }
        for name, value in sizes.items():
            if value < 1:
                msg = f"{name} is {value}; expected at least 1"
                raise InputError(msg)
        if not 0 < false_alarms < 1 or not 0 < threshold < math.inf:
            msg = f"false_alarms is {false_alarms}, threshold is {threshold}; expected a share between 0 and 1, and a number above 0"
            raise InputError(msg)
        self.hidden_size, self.num_layers, self.axes = hidden_size, num_layers, axes
        self.train_images, self.val_images = train_images, val_images
        self.false_alarms, self.threshold = false_alarms, threshold
        width = num_layers * hidden_size
        self.register_buffer("mean", torch.zeros(width))
        # Rows are axes of unit length, by falling variance; `rest` is the variance of every direction beyond them.
        self.register_buffer("components", torch.zeros(axes, width))
        self.register_buffer("variances", torch.ones(axes))
        self.register_buffer("rest", torch.ones(()))

    @classmethod
    def fit(
        cls, hidden_size: int, num_layers: int, train: Batches, val: Batches, false_alarms: float = 0.05, axes: int = AXES
    ) -> Self:
        """Of training images, with the threshold that the images of a validation set give.

        The threshold is the ceil((n + 1)(1 - false_alarms))-th smallest score of n validation images: an image that is exchangeable with
        them is above it with a probability of at most `false_alarms` (split conformal prediction; Vovk et al. 2005).

        Raises:
            TooFewImagesError: of the validation set, for that share of false alarms.
            InputError: no image, or a feature that is not finite.
        """
        width = num_layers * hidden_size
        count, mean, deviations = moments((features(*batch) for batch in train()), width, "training image")
        axes = min(axes, width - 1, max(1, count - 1))
        covariance = (deviations / count).numpy()
        # Ascending, the largest alone.
        variances, directions = eigh(covariance, subset_by_index=[width - axes, width - 1])
        # Equation 8: what is lost, spread over all directions that are.
        rest = float(covariance.trace() - variances.sum()) / (width - axes)
        floor = max(rest, 1e-6 * float(variances[-1]), torch.finfo(torch.float32).tiny)
        spread = cls(hidden_size, num_layers, axes, count, 1, false_alarms, 1.0)
        spread.mean.copy_(mean)
        spread.components.copy_(torch.from_numpy(directions[:, ::-1].T.copy()))
        spread.variances.copy_(torch.from_numpy(variances[::-1].copy()).clamp(min=floor))
        spread.rest.fill_(floor)
        scores = torch.cat([spread(*batch) for batch in val()]).double().sort().values
        rank = math.ceil((len(scores) + 1) * (1 - false_alarms) - 1e-9)
        if rank > len(scores):
            need = math.ceil((1 - false_alarms) / false_alarms - 1e-9)
            msg = f"{len(scores)} validation images: too few for a share of {false_alarms:g} of false alarms; at least {need} are needed"
            raise TooFewImagesError(msg)
        spread.val_images, spread.threshold = len(scores), float(scores[rank - 1])
        return spread.eval()

    @torch.no_grad()
    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Scores: root mean squares of the standardised deviations; about 1 on the training images.

        Args:
            hidden_states: (num_layers, batch, tokens, hidden); index -1 is the last layer.
            mask: (batch, tokens), 1 at real tokens.

        Returns:
            (batch,) float32.
        """
        deviation = features(hidden_states, mask) - self.mean
        along = deviation @ self.components.T
        beyond = (deviation - along @ self.components).square().sum(-1)
        squared = (along.square() / self.variances).sum(-1) + beyond / self.rest
        return (squared / deviation.shape[-1]).sqrt()

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments."""
        names = ("hidden_size", "num_layers", "axes", "train_images", "val_images", "false_alarms", "threshold")
        return {name: getattr(self, name) for name in names}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        save_network(self, directory, self.config)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read a folder of `save_pretrained`; raises as `DESHead.from_pretrained`, and where a variance is not above 0."""
        spread = load_network(cls, directory)
        if not bool((spread.variances > 0).all() and spread.rest > 0):
            msg = f"{directory}: the spread has variances that are not above 0"
            raise InputError(msg)
        return spread


def features(hidden_states: Tensor, mask: Tensor) -> Tensor:
    """What a `Spread` is of: (batch, num_layers · hidden) float32, layer after layer; arguments as in `DESHead.forward`."""
    mask = mask.bool()
    states = unit_rms(hidden_states.float().masked_fill(~mask[None, :, :, None], 0))
    means = states.sum(2) / mask.sum(1)[None, :, None]
    return means.transpose(0, 1).flatten(1)
