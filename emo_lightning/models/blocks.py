"""What is done to the blocks of both towers one by one: activations computed again, and compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emo_lightning.models.families import Family

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def checkpoint_blocks(model: PreTrainedModel, family: Family, which: bool | str) -> None:
    """Compute activations of blocks again in the backward pass.

    Args:
        model: changed in place.
        family: that it is of.
        which: True for all blocks, `every_N` for every Nth of each tower, its first among them.
    """
    # Reentrant checkpointing gives LoRA behind frozen inputs no gradient, in silence.
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    # For the reentrant kind transformers also lets the inputs of both towers require gradients: a frozen vision tower would be
    # differentiated and computed twice, for nothing.
    model.disable_input_require_grads()
    if isinstance(which, str):
        every = int(which.removeprefix("every_"))
        for tower in (family.module(model, family.vision_blocks).children(), family.layers(model)):
            for number, block in enumerate(tower):
                # What transformers asks before it computes a block.
                block.gradient_checkpointing = number % every == 0  # type: ignore[assignment]


def compile_blocks(model: PreTrainedModel, family: Family, backend: str = "inductor") -> None:
    """Compile every block of both towers in place, for rows of any length; the names of its parameters stay.

    Args:
        model: changed in place; adapters are on it.
        family: that it is of.
        backend: of `torch.compile`.
    """
    family.outside_graphs()
    for block in family.units(model):
        block.compile(dynamic=True, backend=backend)
