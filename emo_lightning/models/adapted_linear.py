"""A linear layer with a LoRA adapter, computed without work on whole activations beside its products.

peft computes y + s · B(Ax) as a product, a scaling and a sum over (tokens, out), each with its gradient, and casts x to the adapter's
type and back. Here s is on Ax, which has the rank's width, and the products are added up where they land. Weights, files and results
are peft's; what is not plain LoRA (DoRA, several adapters, merged weights) is left to it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.models.families.autocast import autocast_type

if TYPE_CHECKING:
    from torch.autograd.function import FunctionCtx


_WIDE = 512
"""Columns of a row above which `_narrow` transposes."""


class _Adapter(NamedTuple):
    down: Tensor
    """A, (rank, in)."""
    up: Tensor
    """B, (out, rank)."""
    scale: float
    dropout: nn.Module


class _Product(torch.autograd.Function):
    """x W' + b + s · (x A') B', of which A, B and x learn."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch gives it attributes at run time
        x: Tensor,
        dropped: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
    ) -> Tensor:
        rows = x.flatten(0, -2)
        seen = rows if dropped is None else dropped.flatten(0, -2)
        low = _narrow(down, seen).mul_(scale)
        out = functional.linear(rows, weight, bias).addmm_(low, up.t())
        ctx.save_for_backward(seen, low, weight, down, up)
        ctx.scale, ctx.shape, ctx.apart = scale, x.shape, dropped is not None
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        context = cast(Any, ctx)
        seen, low, weight, down, up = context.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        of_low = _narrow(up.t(), rows).mul_(context.scale)
        of_x: Tensor | None = None
        of_dropped: Tensor | None = None
        if context.apart:
            of_x = (rows @ weight).view(context.shape) if context.needs_input_grad[0] else None
            of_dropped = (of_low @ down).view(context.shape) if context.needs_input_grad[1] else None
        elif context.needs_input_grad[0]:
            of_x = (rows @ weight).addmm_(of_low, down).view(context.shape)
        return of_x, of_dropped, None, None, of_low.t() @ seen, (low.t() @ rows).t(), None


def _narrow(to_rank: Tensor, rows: Tensor) -> Tensor:
    """(tokens, rank) of (tokens, width).

    Of wide rows as the transpose of a product's transpose, as MKL takes two to three times as long for products with few columns; of
    others that saves little, and sums in single precision come out less exact.
    """
    return (to_rank @ rows.t()).t() if rows.shape[1] > _WIDE else rows @ to_rank.t()


class AdaptedLinear(Linear):
    """peft's layer, with its plain case in few products; made of a layer that is there (`join_products`)."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - peft's
        """As peft's."""
        adapter, base = _plain(self), self.get_base_layer()
        assert isinstance(base, nn.Linear)
        weight: Tensor = base.weight
        bias: Tensor | None = base.bias
        if adapter is None or args or kwargs or weight.requires_grad or (bias is not None and bias.requires_grad):
            return super().forward(x, *args, **kwargs)
        down, up = adapter.down, adapter.up
        if (kind := autocast_type(x.device)) is not None:
            x, weight, down, up = (part.to(kind) for part in (x, weight, down, up))
            bias = None if bias is None else bias.to(kind)
        if not x.dtype == weight.dtype == down.dtype == up.dtype:
            return super().forward(x)
        dropped = adapter.dropout(x) if _drops(adapter.dropout) else None
        return cast(Tensor, _Product.apply(x, dropped, weight, bias, down, up, adapter.scale))


def _plain(layer: LoraLayer) -> _Adapter | None:
    """The adapter of a layer that has one alone, on weights that stand beside it, and no variant of LoRA."""
    names = layer.active_adapters
    if layer.disable_adapters or layer.merged or len(names) != 1 or names[0] not in layer.lora_A:
        return None
    (name,) = names
    down, up = layer.lora_A[name], layer.lora_B[name]
    if name in layer.lora_variant or not isinstance(down, nn.Linear) or not isinstance(up, nn.Linear) or up.bias is not None:
        return None
    return _Adapter(down.weight, up.weight, layer.scaling[name], layer.lora_dropout[name])


def _drops(dropout: nn.Module) -> bool:
    return isinstance(dropout, nn.Dropout) and dropout.training and dropout.p > 0


@cache
def _in_4_bits(kind: type[LoraLayer]) -> type[LoraLayer]:
    """The layer of peft on 4-bit weights, made of what peft has; it exists only where bitsandbytes is installed."""

    class Adapted4bit(kind):  # type: ignore[valid-type, misc]  # a class that is not known before
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - peft's
            adapter = _plain(self)
            alike = adapter is not None and x.dtype == adapter.down.dtype == adapter.up.dtype
            if adapter is None or args or kwargs or not (alike or torch.is_autocast_enabled(x.device.type)):
                return cast(Tensor, super().forward(x, *args, **kwargs))
            # peft copies this first, scales the adapter's whole output and adds it up.
            base: Tensor = self.get_base_layer()(x)
            low = functional.linear(adapter.dropout(x), adapter.down) * adapter.scale
            return torch.addmm(base.flatten(0, -2), low.flatten(0, -2), adapter.up.t()).view_as(base)

    return Adapted4bit


def join_products(model: nn.Module) -> None:
    """Have all linear layers with adapters computed so; in place.

    Args:
        model: of peft.
    """
    for layer in model.modules():
        if type(layer) is Linear and type(layer.get_base_layer()) is nn.Linear:
            layer.__class__ = AdaptedLinear
        elif isinstance(layer, LoraLayer) and type(layer).__name__ == "Linear4bit":
            layer.__class__ = _in_4_bits(type(layer))  # type: ignore[assignment]  # a subclass of its own class
