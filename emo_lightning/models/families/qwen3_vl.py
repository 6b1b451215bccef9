"""Qwen3-VL: boxes in thousandths of the image, a vision tower without windows, and DeepStack.

DeepStack: what three of the tower's blocks see is merged as well, and added to the image tokens behind the first three layers of the
language model. Next to Qwen2.5-VL also a table of learned positions, stretched over each picture, and other patches.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from emo_lightning.models.families.boxes import Relative1000
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL, Qwen25VL

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from emo_lightning.models.families.places import Tower


class _DeepStacked(Protocol):
    _deepstack_process: Callable[[Tensor, Tensor, Tensor], Tensor]


class _DeepStackOutput(Protocol):
    deepstack_features: list[Tensor]


_UNFINISHED_THOUGHT = re.compile(r"<think>\s*$")


@dataclass(frozen=True)
class WithoutWindows(Qwen25VL):
    """Pictures are grids of patches and positions have three axes as in Qwen2.5-VL; each block of the tower sees whole pictures."""

    def prompt_text(self, text: str) -> str:
        """The templates of models that think open a thought; ours answer without one, so it ends where it begins."""
        return _UNFINISHED_THOUGHT.sub("<think>\n\n</think>\n\n", text)

    def _whole_blocks(self, model: PreTrainedModel) -> Sequence[int]:
        """All of them."""
        return range(model.config.vision_config.depth)

    def _tower(self, model: PreTrainedModel) -> Tower:
        from emo_lightning.models.families.places import Tower

        vision = model.config.vision_config
        return Tower(None, vision.patch_size, vision.spatial_merge_size, int(vision.num_position_embeddings**0.5))


@dataclass(frozen=True)
class Qwen3VL(WithoutWindows):
    """Image tokens come in four levels."""

    def model_class(self) -> type[PreTrainedModel]:
        """See `Family.model_class`."""
        from transformers import Qwen3VLForConditionalGeneration

        return Qwen3VLForConditionalGeneration

    def prepare(self, model: PreTrainedModel, attention: str) -> None:
        """As Qwen2.5-VL's; and DeepStack takes places in a row, beside a mask."""
        super().prepare(model, attention)
        language = cast("_DeepStacked", self.module(model, self.language_model))
        language._deepstack_process = partial(_add_at, language._deepstack_process)

    def _mergers(self, model: PreTrainedModel) -> list[nn.Module]:
        first, others = (self.module(model, path) for path in self.mergers)
        return [first, *others.children()]

    def _merged(self, out: BaseModelOutputWithPooling) -> Tensor:
        """(image tokens, levels · H): what stands in the sequence, then what is added behind its first layers."""
        import torch

        return torch.cat([super()._merged(out), *cast("_DeepStackOutput", out).deepstack_features], -1)

    def _encoded(self, model: PreTrainedModel, pictures: Tensor) -> BaseModelOutputWithPooling:
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        first, *others = self._levels(model, pictures)
        return BaseModelOutputWithDeepstackFeatures(
            pooler_output=(first,),  # type: ignore[arg-type]  # as it gives itself
            deepstack_features=[(level,) for level in others],  # type: ignore[misc]
        )

    def _levels(self, model: PreTrainedModel, pictures: Tensor) -> tuple[Tensor, ...]:
        """(image tokens, H) each."""
        return pictures.chunk(len(self._mergers(model)), -1)

    def _placed(self, model: PreTrainedModel, pictures: Tensor, places: Tensor) -> tuple[Tensor, dict[str, object]]:
        """As Qwen2.5-VL's, of the first level; the others go to the layers that add them."""
        first, *others = self._levels(model, pictures)
        return first, {"attention_mask": None, "visual_pos_masks": places, "deepstack_visual_embeds": others}


def _add_at(whole: Callable[[Tensor, Tensor, Tensor], Tensor], hidden: Tensor, places: Tensor, states: Tensor) -> Tensor:
    """Hidden states with what DeepStack adds to the image tokens.

    Args:
        whole: transformers' own, for masks; it waits for the device.
        hidden: (B, T, H).
        places: (image tokens,) int64 in the one row of a packed batch, or a mask (B, T).
        states: (image tokens, H).
    """
    if places.ndim > 1:
        return whole(hidden, places, states)
    return hidden.index_add(1, places, states[None].to(hidden.dtype))


QWEN3_VL = Qwen3VL(
    **{
        **vars(QWEN2_5_VL),
        "model_type": "qwen3_vl",
        "title": "Qwen3-VL",
        "window": None,
        "table": 48,
        "mergers": ("model.visual.merger", "model.visual.deepstack_merger_list"),
        "lora_targets": {
            "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.linear_fc[12])",
            "merger": r".*visual\.(merger|deepstack_merger_list\.\d+)\.linear_fc[12]",
            "language": QWEN2_5_VL.lora_targets["language"],
        },
        "codec": Relative1000(),
        "old_names": (),
    }
)
