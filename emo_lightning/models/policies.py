"""Policies that a training does not change: the one that it began with, and the one that samples, kept as copies of what trains.

A copy of the trained weights is the whole difference between two policies of one training, whether these are adapters or the model itself. So
the reference of a round is where the round began, its adapters among them; taking adapters off would give the base model, which
never learnt what the round before has taught.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class Policy:
    """The trained weights of a model as they are now.

    Args:
        model: of whose parameters those that require a gradient are copied.
    """

    def __init__(self, model: nn.Module) -> None:
        self._weights = {name: parameter.detach().clone() for name, parameter in _trained(model)}

    def renew(self, model: nn.Module) -> None:
        """Copy them again."""
        for name, parameter in _trained(model):
            self._like(name, parameter).copy_(parameter.detach())

    @contextmanager
    def within(self, model: nn.Module) -> Iterator[None]:
        """Have the model be this policy: no gradient may be asked for across its bounds."""
        own = {name: parameter.data for name, parameter in _trained(model)}
        try:
            for name, parameter in _trained(model):
                parameter.data = self._like(name, parameter)
            yield
        finally:
            for name, parameter in _trained(model):
                parameter.data = own[name]

    def weights(self) -> dict[str, Tensor]:
        """By name, for a checkpoint."""
        return dict(self._weights)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take them from a checkpoint.

        Raises:
            ValueError: other names.
        """
        if weights.keys() != self._weights.keys():
            first = sorted(weights.keys() ^ self._weights.keys())[0]
            msg = f"the weights of the policy that samples do not fit this model, first: {first}"
            raise ValueError(msg)
        self._weights = {name: value.detach().clone() for name, value in weights.items()}

    def _like(self, name: str, parameter: Tensor) -> Tensor:
        """A weight, where the model is now, in the type that it has now."""
        self._weights[name] = self._weights[name].to(parameter)
        return self._weights[name]


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def without_dropout(model: nn.Module) -> None:
    """Switch dropout off for good, in place: a policy is one distribution, for those who draw from it and those who learn."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # transformers' attention has it at run time
