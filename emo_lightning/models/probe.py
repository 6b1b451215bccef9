"""Linear probes on frozen DES (paper section 4.3.2): a whole grid of them trained in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.core.errors import InputError
from emo_lightning.models.moments import moments
from emo_lightning.models.weights import load_network, save_network

# Directions whose spread is below this share of the widest one's are treated as if they had it: float32 carries no more.
SPREAD_FLOOR = 1e-6


class LinearProbes(nn.Module):
    """One linear classifier per (learning rate, weight decay), all fed with the same batch.

    A probe minimises the mean cross-entropy plus weight_decay / 2 times its squared weights (not its bias): the problem of
    scikit-learn's `LogisticRegression(C=1 / (n * weight_decay))`, convex, so every probe starts at zero.
    Features are standardised with mean and standard deviation of the training set, which `fit_statistics` takes in
    one pass and which are constants from then on.

    The embedding of a trained head is nearly of low rank: what a fine-grained class hangs on may have a millionth of the spread of
    the rest, and a plain gradient never gets there. `finish_gradients` therefore multiplies each gradient by the inverse curvature
    that the problem has at its start, C / classes + weight_decay with C the covariance of the standardised training embeddings
    (a Newton step at zero), so that learning rates are shares of that step, for any embedding.

    Args:
        des_dim: width of the embedding.
        num_classes: how many classes.
        grid: one (learning rate, weight decay) per probe.

    Raises:
        InputError: a size is below 1, or the grid is empty or has a negative value.
    """

    count: Tensor
    mean: Tensor
    scale: Tensor
    axes: Tensor
    inverse_curvature: Tensor

    def __init__(self, des_dim: int, num_classes: int, grid: Sequence[tuple[float, float]]) -> None:
        super().__init__()
        for name, value in {"des_dim": des_dim, "num_classes": num_classes}.items():
            if value < 1:
                msg = f"{name} is {value}; expected at least 1"
                raise InputError(msg)
        if not grid:
            msg = "grid is empty; expected at least one (learning rate, weight decay)"
            raise InputError(msg)
        if wrong := [point for point in grid if not (0 < point[0] < math.inf and 0 <= point[1] < math.inf)]:
            msg = f"grid holds {wrong}; expected learning rates > 0 and weight decays >= 0"
            raise InputError(msg)
        self.des_dim, self.num_classes = des_dim, num_classes
        self.grid = [(float(rate), float(decay)) for rate, decay in grid]
        self.probes = nn.ModuleList(nn.Linear(des_dim, num_classes) for _ in self.grid)
        for parameter in self.probes.parameters():
            nn.init.zeros_(parameter)
        # Number of training samples behind the statistics; 0 = not fitted.
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(des_dim))
        self.register_buffer("scale", torch.zeros(des_dim))  # 1 / standard deviation
        # Principal axes (columns) and 1 / curvature along them, per probe: needed to train, not to apply, so never saved.
        self.register_buffer("axes", torch.zeros(0, 0), persistent=False)
        self.register_buffer("inverse_curvature", torch.zeros(0, 0), persistent=False)

    @torch.no_grad()
    def fit_statistics(self, batches: Iterable[Tensor]) -> None:
        """Set mean, standard deviation and curvature from the training embeddings, replacing earlier ones.

        See `moments`.

        Args:
            batches: (n, des_dim) each, together every training sample once.

        Raises:
            InputError: there is no sample, or a value is not finite.
        """
        count, mean, deviations = moments(batches, self.des_dim, "training embedding")
        covariance = deviations / count
        std = covariance.diagonal().sqrt()
        # A spread that is rounding noise of float32 carries nothing; dividing by it would blow the noise up.
        constant = std <= 1e-7 * mean.abs()
        scale = torch.where(constant, 0.0, 1.0 / std.masked_fill(constant, 1.0))
        self.count.fill_(count)
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        spread, axes = torch.linalg.eigh(scale[:, None] * covariance * scale)
        widest = float(spread.max())
        spread = spread.clamp(min=SPREAD_FLOOR * widest if widest > 0 else 1.0)
        decays = torch.tensor([decay for _, decay in self.grid], dtype=torch.float64)
        self.axes = axes.to(self.mean)
        self.inverse_curvature = (1.0 / (spread / self.num_classes + decays[:, None])).to(self.mean)

    @torch.no_grad()
    def finish_gradients(self) -> None:
        """Turn gradients of the mean cross-entropy into a step's direction: add the decay's, multiply by the inverse curvature.

        Raises:
            RuntimeError: no training statistics were taken.
        """
        if not len(self.axes):
            msg = "the probes have no curvature; call fit_statistics on the training set first"
            raise RuntimeError(msg)
        linears = self._linears()
        weight = torch.stack([linear.weight for linear in linears])  # (grid, classes, des_dim)
        gradient = torch.stack([linear.weight.grad for linear in linears if linear.weight.grad is not None])
        decays = gradient.new_tensor([decay for _, decay in self.grid])[:, None, None]
        direction = ((gradient + decays * weight) @ self.axes) * self.inverse_curvature[:, None] @ self.axes.T
        for linear, each in zip(linears, direction, strict=True):
            linear.weight.grad = each
            if linear.bias.grad is not None:
                linear.bias.grad *= self.num_classes  # the curvature of the bias is 1 / classes

    def standardise(self, des: Tensor) -> Tensor:
        """(batch, des_dim) to zero mean and unit variance on the training set; a constant feature becomes 0.

        Raises:
            RuntimeError: no training statistics were taken.
        """
        if not self.fitted:
            msg = "the probes have no feature statistics; call fit_statistics on the training set first"
            raise RuntimeError(msg)
        return (des.to(self.mean.dtype) - self.mean) * self.scale

    @property
    def fitted(self) -> bool:
        """Whether training statistics were taken."""
        return bool(self.count)

    def forward(self, des: Tensor) -> Tensor:
        """Logits of every probe: (batch, des_dim) to (grid, batch, classes)."""
        linears = self._linears()
        # One product for all: weight (grid * classes, des_dim).
        weight = torch.cat([linear.weight for linear in linears])
        bias = torch.cat([linear.bias for linear in linears])
        logits: Tensor = functional.linear(self.standardise(des).to(weight.dtype), weight, bias).unflatten(
            -1, (len(self.grid), -1)
        )
        return logits.transpose(0, 1)

    def _linears(self) -> list[nn.Linear]:
        return [probe for probe in self.probes if isinstance(probe, nn.Linear)]

    def parameter_groups(self) -> list[dict[str, object]]:
        """For an optimiser without weight decay of its own: one group per probe with its learning rate."""
        return [
            {"params": list(probe.parameters()), "lr": rate} for (rate, _), probe in zip(self.grid, self.probes, strict=True)
        ]

    def select(self, index: int) -> LinearProbes:
        """The probe `grid[index]` alone, with the same statistics, as a grid of one."""
        chosen = LinearProbes(self.des_dim, self.num_classes, [self.grid[index]]).to(self.count.device)
        chosen.probes[0].load_state_dict(self.probes[index].state_dict())
        for name in ("count", "mean", "scale"):
            getattr(chosen, name).copy_(getattr(self, name))
        return chosen

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` (des_dim, num_classes, grid) into a folder."""
        save_network(self, directory, {"des_dim": self.des_dim, "num_classes": self.num_classes, "grid": self.grid})

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read a folder of `save_pretrained`; raises as `DESHead.from_pretrained`, and where the probe has no statistics."""
        probes = load_network(cls, directory)
        if not probes.fitted or not bool((probes.scale >= 0).all()):
            msg = f"{directory}: the probe has no statistics of a training set (tensors count, mean, scale)"
            raise InputError(msg)
        return probes
