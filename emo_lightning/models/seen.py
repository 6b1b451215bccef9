"""Reading named values off a vision tower's tokens: what trains a tower without its language model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class SeenHeads(nn.Module):
    """For each field one learned query that attends to an image's tokens, and a linear layer over what it reads.

    Args:
        width: of a token.
        classes: field -> how many values it has.
    """

    def __init__(self, width: int, classes: Mapping[str, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Linear(width, width)
        self.queries = nn.ParameterDict({name: nn.Parameter(torch.randn(width) * 0.3) for name in classes})
        self.values = nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})

    def forward(self, states: Tensor, tokens: Sequence[int]) -> dict[str, Tensor]:
        """Logits.

        Args:
            states: (tokens of all images, width), one image after the other.
            tokens: of each of B images.

        Returns:
            Field -> (B, its values).
        """
        padded = nn.utils.rnn.pad_sequence(list(self.norm(states).split(list(tokens))), batch_first=True)
        counts = torch.tensor(tokens, device=states.device)
        real = torch.arange(padded.shape[1], device=states.device) < counts[:, None]
        keys = self.keys(padded)
        found = {}
        for name, layer in self.values.items():
            weights = keys @ self.queries[name] / math.sqrt(keys.shape[-1])
            weights = weights.masked_fill(~real, -math.inf).softmax(1)
            found[name] = layer(torch.einsum("bt,btd->bd", weights, padded))
        return found
