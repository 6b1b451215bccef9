"""The DES head: hidden states of a frozen backbone to one emotion embedding per image (paper section 3.3, eq. 2–4)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self, TypedDict, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.core.errors import InputError
from emo_lightning.models.weights import load_network, save_network

Fusion = Literal["both", "self", "queries", "none"]
"""Which attention parts are on: `both` is the paper's; `self` is equation 3 alone; `queries` is equation 4 alone, with queries that are learned, as
there are no self-attended features to ask with; `none` neither."""
SavedFusion = Literal[Fusion, "cross"]
"""What a head on disk may have: `cross`, equation 4 with the features' own queries, is the same function as `self`. Heads that were trained with it
load; training refuses it."""
Pooling = Literal["weighted", "mean"]

RMS_EPSILON = 1e-6

QUERIES = 8
"""Learned queries of the fusion `queries`: what it averages over, where the others average over tokens."""


class DESHeadConfig(TypedDict):
    """Arguments of `DESHead`, as they stand in its `config.json`."""

    hidden_size: int
    num_layers: int
    des_dim: int
    num_heads: int
    dropout: float
    fusion: SavedFusion
    pooling: Pooling


class MaskedAttention(nn.Module):
    """`softmax(Q K^T / sqrt(d_k)) V` of eq. 3 and 4: no bias, no residual, no output projection.

    With several heads, `d_k` is `dim / num_heads` and the heads' outputs are concatenated.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)

    def forward(self, source: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attend from `source` to `memory`.

        Args:
            source: (batch, asked, dim), gives the queries.
            memory: (batch, tokens, dim), gives keys and values.
            mask: (batch, tokens) bool, True where `memory` is a real token.

        Returns:
            (batch, asked, dim)
        """
        batch, asked, dim = source.shape
        # (batch, tokens, dim) -> (batch, heads, tokens, dim / heads)
        query, key, value = (
            projected.view(batch, -1, self.num_heads, dim // self.num_heads).transpose(1, 2)
            for projected in (self.query(source), self.key(memory), self.value(memory))
        )
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return attended.transpose(1, 2).reshape(batch, asked, dim)


class DESHead(nn.Module):
    """Feature extractor (eq. 2), attention block (eq. 3, 4) and weighted averaging.

    The embedding of an image depends on its own real tokens alone: neither on its batch nor on padding.

    Args:
        hidden_size: H, width of the backbone.
        num_layers: how many of the backbone's last layers are summed.
        des_dim: width of the embedding; None is H/2 (1024 for the 3B model).
        num_heads: attention heads; the paper's formula has one.
        dropout: probability between the two projection layers.
        fusion: which attention parts are on (`Fusion`; of a head on disk `SavedFusion`).
        pooling: average over real tokens with learned weights, or the plain mean.

    Raises:
        InputError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 4,
        des_dim: int | None = None,
        num_heads: int = 1,
        dropout: float = 0.1,
        *,
        fusion: SavedFusion = "both",
        pooling: Pooling = "weighted",
    ) -> None:
        super().__init__()
        des_dim = hidden_size // 2 if des_dim is None else des_dim
        for name, value in {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "des_dim": des_dim,
            "num_heads": num_heads,
        }.items():
            if value < 1:
                msg = f"{name} is {value}; expected at least 1"
                raise InputError(msg)
        if des_dim % num_heads:
            msg = f"num_heads is {num_heads}; expected a divisor of des_dim {des_dim}"
            raise InputError(msg)
        if not 0 <= dropout <= 1:
            msg = f"dropout is {dropout}; expected a probability from 0 to 1"
            raise InputError(msg)
        if fusion not in get_args(SavedFusion):
            msg = f"fusion is {fusion!r}; allowed: {', '.join(get_args(Fusion))}"
            raise InputError(msg)
        if pooling not in get_args(Pooling):
            msg = f"pooling is {pooling!r}; allowed: {', '.join(get_args(Pooling))}"
            raise InputError(msg)
        self.hidden_size, self.num_layers, self.des_dim, self.num_heads = hidden_size, num_layers, des_dim, num_heads
        self.fusion, self.pooling = fusion, pooling
        # alpha of eq. 2 before the softmax; index -1 is the last layer, as in transformers' `hidden_states`.
        self.layer_logits = nn.Parameter(torch.zeros(num_layers))
        self.project_in = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)
        self.project_out = nn.Linear(hidden_size, des_dim)
        # Parts that are off do not exist: under DDP every parameter must receive a gradient.
        self.self_attention = MaskedAttention(des_dim, num_heads) if fusion in ("both", "self") else None
        self.cross_attention = MaskedAttention(des_dim, num_heads) if fusion in ("both", "queries", "cross") else None
        self.queries = nn.Parameter(torch.randn(QUERIES, des_dim)) if fusion == "queries" else None
        # No bias: a constant added to every score does not change a softmax.
        self.pool_score = nn.Linear(des_dim, 1, bias=False) if pooling == "weighted" else None

    def forward(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Embed a batch.

        Args:
            hidden_states: (num_layers, batch, tokens, hidden), any float dtype; index -1 is the last layer.
                What stands at padding is never used, not even NaN.
            mask: (batch, tokens) bool or int, 1 at real tokens.

        Returns:
            (batch, des_dim), in the parameters' dtype.

        Raises:
            ValueError: a shape does not fit, or a row has no real token.
        """
        mask = self._check(hidden_states, mask)
        features = self.project(hidden_states, mask)  # (batch, tokens, des_dim)
        fused = features
        if self.self_attention is not None:
            fused = self.self_attention(features, features, mask)
        if self.queries is not None:
            fused = self.queries.expand(len(mask), -1, -1)  # (batch, QUERIES, des_dim)
        if self.cross_attention is not None:
            fused = self.cross_attention(fused, features, mask)
        if self.queries is not None:
            mask = mask.new_ones(fused.shape[:2])  # No query is padding.
        return torch.einsum("bt,btd->bd", self.token_weights(fused, mask), fused)

    def project(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        """Eq. 2 per token; shapes as in `forward`, returns (batch, tokens, des_dim)."""
        hidden = hidden_states.to(self.layer_logits.dtype).masked_fill(~mask[None, :, :, None], 0)
        # transformers gives the last layer after the final norm and the others before it: without
        # a norm the sum would weigh layers by their scale and not by alpha.
        hidden = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + RMS_EPSILON)
        summed = torch.einsum("l,lbth->bth", self.layer_logits.softmax(0), hidden)
        projected: Tensor = self.project_out(self.dropout(functional.gelu(self.project_in(summed))))
        return projected

    def token_weights(self, fused: Tensor, mask: Tensor) -> Tensor:
        """Weights of the average over tokens (or queries), (batch, tokens): 0 at padding, each row sums to 1."""
        if self.pool_score is None:
            return mask / mask.sum(-1, keepdim=True).to(fused.dtype)
        scores: Tensor = self.pool_score(fused)
        return scores.squeeze(-1).masked_fill(~mask, -torch.inf).softmax(-1)

    def save_pretrained(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a folder."""
        save_network(self, directory, self.config)

    @classmethod
    def from_pretrained(cls, directory: str | Path) -> Self:
        """Read a folder of `save_pretrained`; the head is in eval mode.

        Raises:
            MissingFileError: a file is missing.
            InputError: unknown config keys or wrong values, tensors missing, unexpected or of another shape.
        """
        return load_network(cls, directory)

    @property
    def config(self) -> DESHeadConfig:
        """The constructor's arguments."""
        return {
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "des_dim": self.des_dim,
            "num_heads": self.num_heads,
            "dropout": self.dropout.p,
            "fusion": self.fusion,
            "pooling": self.pooling,
        }

    def _check(self, hidden_states: Tensor, mask: Tensor) -> Tensor:
        expected = (self.num_layers, *mask.shape, self.hidden_size)
        if mask.ndim != 2 or tuple(hidden_states.shape) != expected:
            msg = (
                f"hidden_states has shape {list(hidden_states.shape)} and mask {list(mask.shape)}; expected "
                f"({self.num_layers}, batch, tokens, {self.hidden_size}) and (batch, tokens)"
            )
            raise ValueError(msg)
        mask = mask.bool()
        if not bool(mask.any(-1).all()):
            rows = (~mask.any(-1)).nonzero().flatten().tolist()
            msg = f"mask has no real token in rows {rows}; every image needs at least one"
            raise ValueError(msg)
        return mask
