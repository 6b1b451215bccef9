"""What decides a step's speed on a GPU and can be counted anywhere: calls of attention, and waits for the device."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from emo_lightning.models.backbone import Backbone
from emo_lightning.models.families import attention

_WAITS = {
    "item",
    "tolist",
    "__bool__",
    "__int__",
    "__float__",
    "__index__",
    "nonzero",
    "masked_select",
    "unique",
    "cpu",
    "numpy",
}


@dataclass
class Counts:
    """Of one forward pass."""

    calls: dict[str, float] = field(default_factory=dict)
    """`vision` and `language` -> calls of attention a layer."""
    waits: int = 0
    """On CUDA as torch reports them; elsewhere operations that would read a result back."""


class _Waits(TorchFunctionMode):
    """Counts what would have Python wait for a GPU, were the tensors there."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_function__(
        self, func: Callable[..., object], types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        name = getattr(func, "__name__", "")
        by_mask = name == "__getitem__" and any(
            isinstance(key, Tensor) and key.dtype == torch.bool for key in (args[1] if isinstance(args[1], tuple) else args[1:])
        )
        self.found += name in _WAITS or by_mask
        return func(*args, **(kwargs or {}))


@contextmanager
def _calls(backbone: Backbone, found: Counter[str]) -> Iterator[None]:
    """Count calls of attention under the tower that makes them, ours and transformers' own."""
    family, base = backbone.family, backbone.base
    where: list[str] = []
    hooks = []
    for name, path in (("vision", family.vision_tower), ("language", family.language_model)):
        tower: nn.Module = family.module(base, path)
        hooks.append(tower.register_forward_pre_hook(lambda *_, name=name: where.append(name)))
        hooks.append(tower.register_forward_hook(lambda *_: where.clear()))
    ours, theirs = attention.attend, functional.scaled_dot_product_attention
    inside: list[bool] = []

    def attend(*arguments: object, **options: object) -> Tensor:
        found[where[-1] if where else ""] += 1
        inside.append(True)
        try:
            return ours(*arguments, **options)  # type: ignore[arg-type]  # handed on
        finally:
            inside.pop()

    def sdpa(*arguments: object, **options: object) -> Tensor:
        found[where[-1] if where else ""] += not inside
        return theirs(*arguments, **options)  # type: ignore[arg-type]  # handed on

    with patch.object(attention, "attend", attend), patch.object(functional, "scaled_dot_product_attention", sdpa):
        yield
    for hook in hooks:
        hook.remove()


def count(backbone: Backbone, forward: Callable[[], object]) -> Counts:
    """Run a forward pass and count.

    Args:
        backbone: that it goes through.
        forward: the pass; its inputs are where the model is.
    """
    found: Counter[str] = Counter()
    family, base = backbone.family, backbone.base
    layers = {"vision": len(list(family.module(base, family.vision_blocks).children())), "language": len(family.layers(base))}
    with torch.no_grad(), _calls(backbone, found):
        waits = _reported(forward) if torch.cuda.is_available() else _would_be(forward)
    return Counts({name: found[name] / layers[name] for name in layers}, waits)


def _would_be(forward: Callable[[], object]) -> int:
    with _Waits() as waits:
        forward()
    return waits.found


def _reported(forward: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            forward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(one.message) for one in said)
