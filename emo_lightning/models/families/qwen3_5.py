"""Qwen3.5: pictures and boxes as in Qwen3-VL, without DeepStack; three of four decoder layers have linear attention in place of attention.

Its layers come in fours, the last of each with attention over all tokens. So the last four layers, which the DES head reads, are one such
group: three states of linear attention and one of full attention, each after its layer's MLP, of the same width and meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from emo_lightning.models.families.base import FamilyError, gathered
from emo_lightning.models.families.qwen2_5_vl import attention_width
from emo_lightning.models.families.qwen3_vl import QWEN3_VL, WithoutWindows

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache, PreTrainedModel

    from emo_lightning.models.families.delta_rule import KeptRow, RowDelta

LINEAR_ATTENTION = "linear_attention"
"""Of `layer_types` in its configuration."""


@dataclass(frozen=True)
class Qwen35(WithoutWindows):
    """Pictures are those of Qwen3-VL, and positions too; only layers with full attention rotate, and a quarter of each head."""

    def model_class(self) -> type[PreTrainedModel]:
        """See `Family.model_class`.

        Raises:
            FamilyError: this version of transformers reads padding as tokens.
        """
        from transformers import masking_utils

        if not hasattr(masking_utils, "create_recurrent_attention_mask"):
            msg = (
                f"{self.title}: this version of transformers lets the padding of a single sample into the states of linear attention "
                "(its pull request 46773): install a newer one, 5.23 for example"
            )
            raise FamilyError(msg)
        from transformers import Qwen3_5ForConditionalGeneration

        return Qwen3_5ForConditionalGeneration

    def prepare(self, model: PreTrainedModel, attention: str) -> None:
        """As Qwen2.5-VL's; and linear attention keeps samples of a row apart."""
        super().prepare(model, attention)
        if attention == "sdpa":
            from emo_lightning.models.families.delta_rule import read_in_samples

            read_in_samples(self.module(model, self.language_model))

    def outside_graphs(self) -> None:
        """As others', and linear attention among samples."""
        from emo_lightning.models.families.delta_rule import compute_outside_graphs

        super().outside_graphs()
        compute_outside_graphs()

    def _placed(self, model: PreTrainedModel, pictures: Tensor, places: Tensor) -> tuple[Tensor, dict[str, object]]:
        pictures, _ = super()._placed(model, pictures, places)
        return pictures, {"attention_mask": {"full_attention": None, LINEAR_ATTENTION: None}}

    def cache_of(self, model: PreTrainedModel, row: Cache, places: Tensor, mask: Tensor) -> Cache:
        """Keys and values of full attention are gathered; states of linear attention are computed anew from what was kept of the row."""
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config.get_text_config())
        # Several replies to a question begin with the same state.
        marked, which = (2 * places + mask).unique(dim=0, return_inverse=True)
        for number, (kept, layer) in enumerate(zip(cast("list[object]", row.layers), self.layers(model), strict=True)):
            if hasattr(layer, "linear_attn"):
                own = cast("KeptRow", kept)
                seen = (marked // 2).masked_fill(marked % 2 == 0, len(own.mixed))
                tail, states = cast("RowDelta", layer.linear_attn).go_on_from(own, seen)
                cache.update_conv_state(tail.index_select(0, which), number)
                cache.update_recurrent_state(states.index_select(0, which), number)
            else:
                cache.update(*gathered(kept, places), number)
        return cache

    def _among_tokens(self, model: PreTrainedModel, tokens: int, pairs: float) -> float:
        text = model.config.get_text_config()
        layers: list[str] = text.layer_types
        linear = layers.count(LINEAR_ATTENTION)
        # A token's convolution; and of each head reading, writing and asking a state: three products with (key width, value width).
        keys, values = (
            heads * width
            for heads, width in (
                (text.linear_num_key_heads, text.linear_key_head_dim),
                (text.linear_num_value_heads, text.linear_value_head_dim),
            )
        )
        a_token = 2 * text.linear_conv_kernel_dim * (2 * keys + values) + 6 * values * text.linear_key_head_dim
        return 4.0 * (len(layers) - linear) * attention_width(text) * pairs + float(linear * a_token * tokens)


QWEN3_5 = Qwen35(
    **{
        **vars(QWEN3_VL),
        "model_type": "qwen3_5",
        "title": "Qwen3.5",
        "mergers": ("model.visual.merger",),
        "lora_targets": {
            "vision": QWEN3_VL.lora_targets["vision"],
            "merger": r".*visual\.merger\.linear_fc[12]",
            "language": (
                r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj"
                r"|linear_attn\.(in_proj_(qkv|z|b|a)|out_proj))"
            ),
        },
    }
)
