"""Fully sharded training (FSDP2, `torch.distributed.fsdp.fully_shard`): each rank keeps a part of every weight.

The unit that is gathered for its forward and backward pass is a decoder layer or a block of the vision tower; everything else
(embeddings, tied head, norms, merger) is gathered once a step. Frozen weights and adapters are sharded alike. The arithmetic is
that of DDP: gradients are averaged over ranks in the weights' own type.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneError

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def shard(backbone: Backbone, mesh: DeviceMesh) -> None:
    """Shard a loaded backbone in place; every rank calls it with the same weights.

    Args:
        backbone: on the CPU or the rank's own device.
        mesh: a `DeviceMesh` with the dimensions `data_parallel` and `tensor_parallel`, the second of size 1.

    Raises:
        BackboneError: 4-bit weights, or tensor parallelism.
    """
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if backbone.config.tuning == "qlora":
        msg = "tuning=qlora: 4-bit weights cannot be sharded; use trainer.strategy=ddp, or tuning=lora"
        raise BackboneError(msg)
    if mesh["tensor_parallel"].size() != 1:
        msg = f"trainer.strategy: tensor_parallel_size={mesh['tensor_parallel'].size()}; allowed: 1, as ranks read different samples"
        raise BackboneError(msg)
    ranks = mesh["data_parallel"]
    for layer in backbone.family.units(backbone.base):
        fully_shard(layer, mesh=ranks)
    fully_shard(backbone, mesh=ranks)
    for method in ("answer_loss", "generate"):
        register_fsdp_forward_method(backbone, method)


def is_sharded(backbone: Backbone) -> bool:
    """Whether every rank must take part in whatever this backbone computes."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(backbone, FSDPModule)


def gather_trained(backbone: Backbone) -> dict[str, Tensor] | None:
    """Whole weights for `Backbone.save`, on rank 0 (empty on others); None where they are whole already. Every rank calls it.

    With adapters only what trains is gathered, the base model stays where it came from.
    """
    if not is_sharded(backbone):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=backbone.adapted)
    weights = get_model_state_dict(backbone.model, options=options)
    # Without the tied head, which is the embedding under a second name.
    once = {name for name, _ in (*backbone.model.named_parameters(), *backbone.model.named_buffers())}
    return {name: weight for name, weight in weights.items() if name in once and isinstance(weight, Tensor)}
