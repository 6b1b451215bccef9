"""Qwen2.5-VL: boxes in absolute pixels of the resized image, a vision tower with windows, three-axis rotary positions (M-RoPE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import TYPE_CHECKING, Protocol, cast

from emo_lightning.models.families.base import (
    CACHED_STATES,
    BackbonePart,
    FamilyError,
    Processor,
    Work,
)
from emo_lightning.models.families.boxes import AbsolutePixels
from emo_lightning.models.families.grids import PLACES_KEY, Grids
from emo_lightning.models.families.resize import MAX_ASPECT_RATIO

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import Cache, PreTrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    from emo_lightning.models.families.places import Tower


@cache
def takes_encoded_pictures() -> bool:
    """Whether this version of transformers lets a model be given pictures that have passed its tower."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    return "mm_encoder_outputs" in signature(Qwen2_5_VLForConditionalGeneration.forward).parameters


def attention_width(text: PreTrainedConfig) -> int:
    """Of all heads' queries, by the configuration of a language model."""
    heads = int(text.num_attention_heads)
    return heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads)


class _Deltas(Protocol):
    rope_deltas: Tensor | None


@dataclass(frozen=True)
class Qwen25VL(Grids):
    """Its pictures are `Grids`; what its model makes of them."""

    def model_class(self) -> type[PreTrainedModel]:
        """See `Family.model_class`."""
        from transformers import Qwen2_5_VLForConditionalGeneration

        return Qwen2_5_VLForConditionalGeneration

    def prepare(self, model: PreTrainedModel, attention: str) -> None:
        """All windows of the vision tower at once, and packed text, where transformers' `sdpa` would take one at a time, or a mask."""
        from emo_lightning.models.families.attention import (
            LANGUAGE_ATTENTION,
            VISION_ATTENTION,
            attend_in_samples,
            mark_windows,
        )
        from emo_lightning.models.families.qwen_layers import read_in_rows

        if attention == "sdpa":
            mark_windows(self.module(model, self.vision_blocks), self._whole_blocks(model))
            attend_in_samples(self.module(model, self.vision_tower), VISION_ATTENTION)
            attend_in_samples(self.module(model, self.language_model), LANGUAGE_ATTENTION)
            read_in_rows(self.module(model, self.language_model))

    def _whole_blocks(self, model: PreTrainedModel) -> Sequence[int]:
        """Numbers of the vision tower's blocks in which patches attend to the whole picture."""
        return cast("Sequence[int]", model.config.vision_config.fullatt_block_indexes)

    def prepare_pictures(self, model: PreTrainedModel, processor: Processor) -> None:
        """Patches as bytes, and their embedding as one matrix product."""
        from emo_lightning.models.families.patches import StillPatches

        visual = self.module(model, self.vision_tower)
        visual.patch_embed = StillPatches(
            cast("nn.Conv3d", visual.get_submodule("patch_embed.proj")), processor.image_processor
        )

    def picture_states(self, model: PreTrainedModel, inputs: Mapping[str, object], part: BackbonePart) -> Tensor:
        """What leaves the tower are the patches of each token side by side, as the merger takes them."""

        def unmerged(_merger: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            # In the place of the merger's output the tower brings it into the order of the tokens.
            return given[0].reshape(len(out), -1)

        mergers = self._mergers(model) if part == "vision" else []
        hooks = [merger.register_forward_hook(unmerged) for merger in mergers]
        try:
            return self._pictures(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def _mergers(self, model: PreTrainedModel) -> list[nn.Module]:
        """All of them, in the order in which their outputs stand side by side in `_pictures`."""
        return [self.module(model, path) for path in self.mergers]

    def _pictures(self, model: PreTrainedModel, batch: Mapping[str, object]) -> Tensor:
        """(image tokens, H) of the pictures of a batch: through the tower, or what a cache holds of them through what is left of it."""
        import torch

        visual = cast("PreTrainedModel", self.module(model, self.vision_tower))
        tensors = cast("Mapping[str, Tensor]", batch)
        if CACHED_STATES["merger"] in batch:
            return tensors[CACHED_STATES["merger"]]
        if CACHED_STATES["vision"] in batch:
            mergers = self._mergers(model)
            parts = tensors[CACHED_STATES["vision"]].chunk(len(mergers), -1)
            merged: list[Tensor] = [
                merger(part.reshape(-1, visual.config.hidden_size)) for merger, part in zip(mergers, parts, strict=True)
            ]
            return merged[0] if len(merged) == 1 else torch.cat(merged, -1)
        pixels, grids = tensors["pixel_values"], tensors["image_grid_thw"]
        known = self._tower_inputs(model, batch, pixels.device) if self.packs(model) else {}
        return self._merged(visual(pixels, grid_thw=grids, **known))

    def _merged(self, out: BaseModelOutputWithPooling) -> Tensor:
        """(image tokens, H) of what a vision tower gives back."""
        return cast("Tensor", out.pooler_output)

    def _encoded(self, model: PreTrainedModel, pictures: Tensor) -> BaseModelOutputWithPooling:  # noqa: ARG002
        """`_pictures` of a batch, in transformers' own way in for pictures that are encoded already."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=(pictures,))  # type: ignore[arg-type]  # as it gives itself

    def work(
        self, model: PreTrainedModel, products: Mapping[BackbonePart, int], batch: Mapping[str, object], lengths: Sequence[int]
    ) -> dict[BackbonePart, Work]:
        """See `Family.work`."""
        merged = model.config.vision_config.spatial_merge_size**2
        pictures = [rows * columns for _, rows, columns in cast("Tensor", batch["image_grid_thw"]).tolist()]
        patches = sum(pictures)
        # What a cache holds is not computed again.
        seen = batch.keys() & CACHED_STATES.values()
        tower = Work(2 * products["vision"] * patches, 4 * self._attended(model, pictures))
        merger = Work(2 * products["merger"] * patches / merged, 0.0)
        # Pairs of tokens that attend to each other, of samples that see what stands before their branches.
        images = cast("Sequence[Sequence[int]]", batch.get("branches", [[length] for length in lengths]))
        causal = sum(first**2 / 2 + sum(first * rest + rest**2 / 2 for rest in more) for first, *more in images)
        unread = self._unread(model, products["language"], batch, images)
        return {
            "vision": Work(0.0, 0.0) if seen else tower,
            "merger": Work(0.0, 0.0) if CACHED_STATES["merger"] in seen else merger,
            "language": Work(
                2 * products["language"] * sum(lengths) - unread.weights,
                self._among_tokens(model, sum(lengths), causal) - unread.attention,
            ),
        }

    def _among_tokens(self, model: PreTrainedModel, tokens: int, pairs: float) -> float:  # noqa: ARG002 - other layers count tokens
        """Operations by which the decoder layers relate tokens to each other.

        Args:
            model: without adapters' wrapping.
            tokens: of a batch.
            pairs: of them that attend to each other.
        """
        text = model.config.get_text_config()
        return 4.0 * int(text.num_hidden_layers) * attention_width(text) * pairs

    def _read_ends(self, model: PreTrainedModel, batch: Mapping[str, object]) -> Sequence[int] | None:
        """`answer_ends` of a batch, where the last decoder layer can leave out the rest."""
        from emo_lightning.models.families.qwen_layers import leaves_out

        ends = cast("Sequence[int] | None", batch.get("answer_ends"))
        return ends if ends is not None and leaves_out(self.layers(model)[-1]) else None

    def _unread(
        self, model: PreTrainedModel, products: int, batch: Mapping[str, object], images: Sequence[Sequence[int]]
    ) -> Work:
        """What the last decoder layer leaves out: all but keys and values of tokens whose states the loss does not read."""
        ends = self._read_ends(model, batch)
        if ends is None:
            return Work(0.0, 0.0)
        text = model.config.get_text_config()
        kept = 2 * text.hidden_size**2 * text.num_key_value_heads // text.num_attention_heads
        seen = [(length, before) for first, *more in images for length, before in [(first, 0), *((one, first) for one in more)]]
        others = [(length - count, before) for (length, before), count in zip(seen, ends, strict=True)]
        return Work(
            2.0 * (products // text.num_hidden_layers - kept) * sum(count for count, _ in others),
            4.0 * text.hidden_size * sum(count**2 / 2 + count * before for count, before in others),
        )

    def _attended(self, model: PreTrainedModel, pictures: Sequence[int]) -> float:
        """Width × pairs of patches that attend to each other, over all blocks; some attend within windows."""
        vision = model.config.vision_config
        tower, whole = self._tower(model), len(self._whole_blocks(model))
        window = ((tower.window or 0) // tower.patch) ** 2
        return float(vision.hidden_size * sum(p * (whole * p + (vision.depth - whole) * min(window, p)) for p in pictures))

    def packed_states(
        self, model: PreTrainedModel, batch: Mapping[str, object], cache: Cache | None = None, *, ends: bool = False
    ) -> Tensor:
        """See `Family.packed_states`; nothing here waits for the device."""
        import torch

        from emo_lightning.models.families.samples import Ends, Samples

        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        ids = tensors["input_ids"]
        hidden: Tensor = model.get_input_embeddings()(ids)
        pictures, more = self._placed(model, self._pictures(model, batch), tensors["image_at"])
        hidden = hidden.index_copy(1, tensors["image_at"], pictures[None].to(hidden))
        language = self.module(model, self.language_model)
        counts = self._read_ends(model, batch) if ends else None
        read = None if counts is None else Ends.of_row(batch, counts, ids.device)
        out = language(
            inputs_embeds=hidden,
            position_ids=tensors["positions"],
            past_key_values=cache,
            use_cache=cache is not None,
            samples=Samples.of_row(batch, ids.device),
            **({} if read is None else {"ends": read}),
            **more,
        )
        states: Tensor = out.last_hidden_state
        if read is None:
            return states
        return torch.zeros_like(hidden, dtype=states.dtype).index_copy(1, read.places, states)

    def _placed(self, model: PreTrainedModel, pictures: Tensor, places: Tensor) -> tuple[Tensor, dict[str, object]]:  # noqa: ARG002
        """What of `_pictures` stands in a row, (image tokens, H), and inputs of the language model that go with it.

        Args:
            model: without adapters' wrapping.
            pictures: of the row's pictures.
            places: (image tokens,), where they stand.
        """
        # A mask that says nothing, or transformers makes one of (T, T).
        return pictures, {"attention_mask": {"full_attention": None}}

    def go_on(self, model: PreTrainedModel, ahead: Tensor) -> None:
        """See `Family.go_on`."""
        # transformers' generation adds them to places where the cache has tokens already.
        cast("_Deltas", self.module(model, self.body)).rope_deltas = ahead

    def padded_inputs(self, model: PreTrainedModel, batch: Mapping[str, object]) -> dict[str, object]:
        """Where tokens and patches stand, or what a cache holds of these."""
        inputs = self.model_inputs(batch)
        known = cast("Tensor | None", batch.get("positions"))
        # Those of a batch from which rows were taken are of others.
        its = known is not None and known.shape[1:] == inputs["input_ids"].shape
        positions = {"position_ids": known} if its else {}
        if inputs.keys() & CACHED_STATES.values():
            if not takes_encoded_pictures():
                msg = (
                    "this version of transformers takes no cached pictures in padded batches: "
                    "set data.max_tokens in place of data.batch_size, or model.backbone.vision_cache to off, or install a newer one"
                )
                raise FamilyError(msg)
            left = {name: value for name, value in inputs.items() if name not in CACHED_STATES.values()}
            encoded = self._encoded(model, self._pictures(model, inputs))
            return {**left, **positions, "mm_encoder_outputs": {"image": encoded}}
        places = self._tower_inputs(model, batch, inputs["input_ids"].device) if self.packs(model) else {}
        # The names by which transformers' model hands them on to its tower.
        return {**inputs, **positions, **{f"image_{name}": value for name, value in places.items()}}

    def _tower_inputs(self, model: PreTrainedModel, batch: Mapping[str, object], device: torch.device) -> dict[str, object]:
        """What the tower need not work out; nothing where the batch does not say it, or says it of other windows or pictures."""
        from emo_lightning.models.families.places import PatchPlaces

        found, pixels = batch.get(PLACES_KEY), cast("Tensor", batch["pixel_values"])
        if not isinstance(found, PatchPlaces) or found.tower != self._tower(model) or len(found.positions) != len(pixels):
            return {}
        return found.to(device).tower_inputs()

    def _tower(self, model: PreTrainedModel) -> Tower:
        """What decides where a model's patches stand."""
        from emo_lightning.models.families.places import Tower

        vision = model.config.vision_config
        return Tower(vision.window_size, vision.patch_size, vision.spatial_merge_size)


QWEN2_5_VL = Qwen25VL(
    model_type="qwen2_5_vl",
    title="Qwen2.5-VL",
    body="model",
    lm_head="lm_head",
    vision_tower="model.visual",
    vision_blocks="model.visual.blocks",
    language_model="model.language_model",
    decoder_layers="model.language_model.layers",
    mergers=("model.visual.merger",),
    lora_targets={
        "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
        "merger": r".*visual\.merger\.mlp\.(0|2)",
        "language": r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
    },
    unquantised=("model.visual", "lm_head"),
    codec=AbsolutePixels(),
    max_aspect_ratio=MAX_ASPECT_RATIO,
    image_token="<|image_pad|>",
    end_of_turn="<|im_end|>",
    picture_tokens=("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|video_pad|>"),
    special_tokens=(
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|object_ref_start|>",
        "<|object_ref_end|>",
        "<|box_start|>",
        "<|box_end|>",
        "<|quad_start|>",
        "<|quad_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ),
    # Before transformers 4.52 the language model had no name of its own.
    old_names=(
        ("visual.", "model.visual."),
        ("model.layers.", "model.language_model.layers."),
        ("model.embed_tokens.", "model.language_model.embed_tokens."),
        ("model.norm.", "model.language_model.norm."),
    ),
    inputs=("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"),
)
