"""The weights of a policy as one plain model has them, adapters folded in, without changing the model: what another engine is handed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emo_lightning.models.backbone_config import BackboneError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def merged_weights(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of transformers' plain model, one after another: none but the one at hand takes memory of its own.

    Args:
        model: without peft's wrapping, its layers with adapters or without.

    Raises:
        BackboneError: the weights are in 4 bits, or of adapters that are more than a sum.
    """
    from peft.tuners.lora.layer import LoraLayer

    adapted = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            msg = (
                f"{name!r} is in 4 bits, and no other engine has the same: allowed for model.engine.name with tuning qlora: own"
            )
            raise BackboneError(msg)
        at, _, own = name.rpartition(".base_layer.")
        if at in adapted and own == "weight":
            yield f"{at}.weight", _summed(parameter, adapted[at], at)
        elif at in adapted:
            yield f"{at}.{own}", parameter.detach()
        elif ".lora_" not in f".{name}":
            yield name, parameter.detach()


def _summed(weight: Tensor, layer: object, name: str) -> Tensor:
    from peft.tuners.lora.layer import Linear

    if not isinstance(layer, Linear) or any(layer.use_dora.values()):
        msg = f"the adapter on {name!r} is no plain LoRA, and cannot be handed to another engine; allowed for model.engine.name: own"
        raise BackboneError(msg)
    whole = weight.float()
    for adapter in layer.active_adapters:
        whole = whole + layer.get_delta_weight(adapter).float()
    return whole.to(weight.dtype)
