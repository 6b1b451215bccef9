"""`--trainer.strategy fsdp`: Lightning's FSDP2 strategy over all ranks, with checkpoints that every other strategy reads as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.core.errors import InputError
from emo_lightning.tasks.base import TrainingError


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 on CPU (gloo) and GPU (nccl), for a task that shards its networks in `configure_model`.

    Lightning's own `fsdp` is FSDP1, which refuses the CPU and clips no gradients by norm. A checkpoint is one file with whole
    tensors of what trains, in the form that DDP and single processes write: either resumes the other's.

    Args:
        timeout_minutes: for a rank to wait for another.
    """

    def __init__(self, timeout_minutes: float = 30.0) -> None:
        from datetime import timedelta

        super().__init__(save_distributed_checkpoint=False, timeout=timedelta(minutes=timeout_minutes))

    def setup_environment(self) -> None:
        """All ranks are one data-parallel group."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """As Lightning's.

        Raises:
            InputError: something that trains is not sharded, so that ranks would drift apart in silence.
        """
        assert self.model is not None
        whole = [name for name, p in self.model.named_parameters() if p.requires_grad and not isinstance(p, DTensor)]
        if whole:
            msg = (
                f"trainer.strategy=fsdp: {type(self.model).__name__} does not shard {len(whole)} of its parameters, first: {whole[0]}; "
                "use trainer.strategy=ddp"
            )
            raise InputError(msg)
        super().setup(trainer)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors of what trains, on rank 0; empty on others."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """What `Optimizer.state_dict` of one process gives, on rank 0; empty on others."""
        assert self.model is not None
        plain = _plain(optimizer)
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_optimizer_state_dict(self.model, plain, options=options)
        if not state:
            return {}
        number = {name: i for i, name in enumerate(_names(self.model, plain))}
        return {
            "state": {number[name]: value for name, value in state["state"].items()},
            "param_groups": [
                {**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]
            ],
        }

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Give each rank its shards of the weights and of the optimiser's state; returns the checkpoint."""
        assert self.model is not None
        path = Path(self.broadcast(checkpoint_path))
        del weights_only  # never another than True
        checkpoint: dict[str, Any] = read_checkpoint(path)
        # The frozen weights are not in it; what else is missing, the task finds out.
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(self.model, dict(checkpoint["state_dict"]), options=options)
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            set_optimizer_state_dict(
                self.model,
                _plain(optimizer),
                _named(state, _names(self.model, _plain(optimizer))),
                options=StateDictOptions(full_state_dict=True),
            )
        return checkpoint


def _plain(optimizer: Optimizer | LightningOptimizer) -> Optimizer:
    return optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer


def _names(model: torch.nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the optimiser's parameters in its order, which is the numbering of its own `state_dict`."""
    name_of: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _named(state: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """A state dict of `Optimizer.state_dict` by name instead of number."""
    numbers: dict[int, dict[str, Tensor]] = state["state"]
    if sum(len(group["params"]) for group in state["param_groups"]) != len(names):
        found = sum(len(group["params"]) for group in state["param_groups"])
        msg = f"checkpoint does not fit this model: its optimiser has {found} parameters, this one {len(names)}"
        raise TrainingError(msg)
    return {
        "state": {names[number]: value for number, value in numbers.items()},
        "param_groups": [{**group, "params": [names[number] for number in group["params"]]} for group in state["param_groups"]],
    }
