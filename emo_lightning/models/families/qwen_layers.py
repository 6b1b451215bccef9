"""Decoder layers of Qwen2.5-VL for rows of samples: what transformers computes in many passes over activations, in few.

Modules, parameters and their names stay transformers'; each gets a class that computes the same in fewer passes where samples stand in a
row. Padded batches and generation are left to transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VLAttention,
    Qwen2_5_VLDecoderLayer,
    Qwen2_5_VLRMSNorm,
)

from emo_lightning.models.families import attention
from emo_lightning.models.families.samples import Ends, Samples

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx

RotaryAngles = tuple[Tensor, Tensor]
"""Cosines and sines of the rotary angles."""


class RowAttention(Qwen2_5_VLAttention):
    """Attention within the samples of a row, in the layout in which products leave it: (tokens, heads, d)."""

    def forward(  # type: ignore[override]  # what it leaves to transformers goes there as it came
        self,
        hidden_states: Tensor,
        *arguments: Any,  # noqa: ANN401 - transformers'
        samples: Samples | None = None,
        queries: Ends | None = None,
        **options: Any,  # noqa: ANN401 - transformers'
    ) -> tuple[Tensor, Tensor | None]:
        """As transformers', where samples stand in a row and nothing is kept of them.

        Args:
            hidden_states: (1, T, H) after the norm.
            *arguments: of transformers' own.
            samples: of the row; transformers computes where there are none.
            queries: the tokens whose queries alone are computed; None: all of them.
            **options: of transformers' own: `position_embeddings`, (1, T, d) each, or (3, 1, T, d) before they are joined; and
                `past_key_values`, with which transformers computes.

        Returns:
            (1, T, H), or (1, E, H) of the E `queries`; and None for the weights.
        """
        if samples is None or options.get("past_key_values") is not None:
            whole: dict[str, Any] = {"samples": samples, **options}
            return cast("tuple[Tensor, Tensor | None]", super().forward(hidden_states, *arguments, **whole))
        queried = hidden_states if queries is None else hidden_states.index_select(1, queries.places)
        query, key, value = (
            of(states)[0].unflatten(-1, (-1, self.head_dim))
            for of, states in ((self.q_proj, queried), (self.k_proj, hidden_states), (self.v_proj, hidden_states))
        )
        cos, sin = self._turns(options["position_embeddings"])
        key = apply_rotary(key, cos, sin)
        if queries is not None:
            cos, sin = cos.index_select(0, queries.places), sin.index_select(0, queries.places)
        found = attention.attend(
            apply_rotary(query, cos, sin),
            key,
            value,
            samples if queries is None else queries.samples,
            causal=True,
            dropout=float(self.attention_dropout or 0.0) if self.training else 0.0,
            scaling=self.scaling,
        )
        return self.o_proj(found.flatten(1)[None]), None

    def _turns(self, embeddings: RotaryAngles) -> RotaryAngles:
        """(T, 1, d) each, the sines as `apply_rotary` takes them."""
        sections = cast("dict[str, Any]", self.config.rope_parameters)["mrope_section"]
        cos, sin = (_joined(part, sections) for part in embeddings)
        return cos, torch.cat([-sin[..., : self.head_dim // 2], sin[..., self.head_dim // 2 :]], -1)


def _joined(part: Tensor, sections: list[int]) -> Tensor:
    """Of time, rows and columns; older versions of transformers join them in every layer."""
    if part.ndim == 4:
        part = torch.cat([of_axes[axis % 3] for axis, of_axes in enumerate(part.split([*sections, *sections], -1))], -1)
    return part[0, :, None]


class RowLayer(Qwen2_5_VLDecoderLayer):
    """The last decoder layer: what nobody reads of it is not computed.

    The states of a token are read by later layers, and at the end by the loss, which reads those before answers' tokens alone. The last
    layer therefore needs keys and values of all tokens, and everything else at the ends of samples, where answers are.
    """

    def forward(
        self,
        hidden_states: Tensor,
        *arguments: Any,  # noqa: ANN401 - transformers'
        ends: Ends | None = None,
        **options: Any,  # noqa: ANN401 - transformers'
    ) -> Tensor:
        """As transformers', and (1, E, H) where there are E ends."""
        if ends is None:
            return super().forward(hidden_states, *arguments, **options)
        normed = self.input_layernorm(hidden_states)
        found: Tensor = self.self_attn(normed, *arguments, queries=ends, **options)[0]
        states = hidden_states.index_select(1, ends.places) + found
        more: Tensor = self.mlp(self.post_attention_layernorm(states))
        return states + more


class RowNorm(Qwen2_5_VLRMSNorm):
    """The norm in few passes."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """As transformers'."""
        return cast(Tensor, _Norm.apply(hidden_states, self.weight, self.variance_epsilon))


class _Norm(torch.autograd.Function):
    """x / sqrt(mean(x²) + epsilon) · w (Zhang and Sennrich 2019, arXiv:1910.07467, equation 4)."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it attributes at run time
        x: Tensor,
        weight: Tensor,
        epsilon: float,
    ) -> Tensor:
        whole = x.float()
        scale = torch.linalg.vector_norm(whole, dim=-1, keepdim=True).square().div(x.shape[-1]).add(epsilon).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        normed = (whole * scale).to(x.dtype)
        # Nothing in place, here and below: what torch 2.11 compiles of it has wrong gradients then.
        weighed: Tensor = normed * weight
        return weighed

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        context = cast(Any, ctx)
        x, weight, scale = context.saved_tensors
        whole = x.float()
        of_x: Tensor | None = None
        if context.needs_input_grad[0]:
            weighed = (grad * weight).float()
            along = (weighed * whole).sum(-1, keepdim=True).mul(scale.pow(3)).div(-x.shape[-1])
            of_x = weighed.mul(scale).addcmul(whole, along).to(x.dtype)
        of_weight: Tensor | None = None
        if context.needs_input_grad[1]:
            of_weight = (grad * (whole * scale).to(x.dtype)).flatten(0, -2).sum(0).to(weight.dtype)
        return of_x, of_weight, None


def apply_rotary(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864): the halves of every head turn by its token's angles.

    Args:
        states: (T, heads, d).
        cos: (T, 1, d), both halves alike.
        sin: as `cos`, the first half negative.
    """
    return cast(Tensor, _Turn.apply(states, cos, sin))


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it attributes at run time
        states: Tensor,
        cos: Tensor,
        sin: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.kind = states.dtype
        return _turn(states, cos, sin)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        context = cast(Any, ctx)
        cos, sin = context.saved_tensors
        return _turn(grad, cos, -sin).to(context.kind), None, None


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    # As it is rounded in transformers, which computes padded batches.
    first, second = states.chunk(2, -1)
    return (states * cos).add(torch.cat((second, first), -1) * sin)


def read_in_rows(language: nn.Module) -> None:
    """Have a language model computed so; in place.

    Args:
        language: with its `layers` and `norm`, before adapters are on it.
    """
    *_, last = language.get_submodule("layers").children()
    # Relatives have layers of their own, which stay as they are.
    if type(last) is Qwen2_5_VLDecoderLayer:
        last.__class__ = RowLayer
    for module in language.modules():
        if type(module) is Qwen2_5_VLAttention:
            module.__class__ = RowAttention
        elif type(module) is Qwen2_5_VLRMSNorm:
            module.__class__ = RowNorm


def leaves_out(layer: nn.Module) -> bool:
    """Whether a decoder layer computes ends alone, where it is told to."""
    return isinstance(layer, RowLayer)
