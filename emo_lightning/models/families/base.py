"""What a family of backbones is: everything that the rest of the project must not know of Qwen2.5-VL and its relatives.

A new family is one file in this folder and one line in the registry (`emo_lightning.models.families`). Where it differs from a
family that is there in facts alone, `dataclasses.replace` of that family's object is enough; where it differs in how pictures or
positions are computed, a subclass overrides the methods concerned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard, cast

from emo_lightning.models.families.boxes import BoxCodec, Size
from emo_lightning.models.families.inputs import (
    BACKBONE_PARTS,
    CACHED_STATES,
    BackbonePart,
    CachedPicture,
    FamilyError,
    ImageProcessor,
    PixelLimits,
    Processor,
    VisionInputs,
    Work,
    resize_to,
    token_id,
)

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor
    from transformers import Cache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer

__all__ = [
    "BACKBONE_PARTS",
    "CACHED_STATES",
    "BackbonePart",
    "CachedPicture",
    "Family",
    "FamilyError",
    "ImageProcessor",
    "PixelLimits",
    "Processor",
    "VisionInputs",
    "Work",
    "gathered",
    "products_of",
    "resize_to",
]


@dataclass(frozen=True)
class Family(ABC):
    """One family of vision-language models, by the `model_type` of its Hugging Face configuration.

    Module paths are those of the model as transformers loads it, without adapters.
    """

    model_type: str
    """`model_type` in `config.json`: the key of the registry."""
    title: str
    """Its name in messages."""
    body: str
    """Path of the model without its language-model head; its output has `last_hidden_state`, after the final norm."""
    lm_head: str
    """Path of the linear layer from hidden states to the vocabulary."""
    vision_tower: str
    """Path of the vision tower; mergers may stand in it or beside it."""
    vision_blocks: str
    """Path of the vision tower's list of blocks."""
    language_model: str
    """Path of the language model without its head, from embeddings to hidden states."""
    decoder_layers: str
    """Path of the language model's list of layers, of which the DES head reads the last ones: by their order, whatever their kind."""
    mergers: tuple[str, ...]
    """Paths of what joins the vision tower to the language model."""
    lora_targets: Mapping[BackbonePart, str]
    """Regular expressions on module names: the linear layers of each part that get an adapter."""
    unquantised: tuple[str, ...]
    """Paths that stay as they are where the language model is loaded in 4 bits."""
    codec: BoxCodec
    """How a box stands in the chat."""
    max_aspect_ratio: float
    """Longer side over shorter side that its image processor accepts."""
    image_token: str
    """The token that stands for a piece of a picture; the chat template writes it once a picture."""
    end_of_turn: str
    """The token that ends an answer."""
    inputs: tuple[str, ...]
    """What the model must be given. A name that is missing here would be missing in silence: transformers has defaults for most."""
    pixels: str = "pixel_values"
    """Which of `inputs` holds the pictures' pixels: what a cache holds of them stands in its place."""
    image_frame: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Tokens that its processor, and not its chat template, writes before and after those of a picture; InternVL: `<img>`, `</img>`."""
    picture_tokens: tuple[str, ...] = ()
    """Tokens that stand for pictures and videos or frame them, beside those above: no answer holds one."""
    special_tokens: tuple[str, ...] = ()
    """All of its chat's special tokens, in the order of their ids, where small models of it are made from nothing."""
    old_names: tuple[tuple[str, str], ...] = ()
    """(how a module's path began in older versions of transformers, how it begins today): adapters of then are renamed by it."""

    @abstractmethod
    def model_class(self) -> type[PreTrainedModel]:
        """The class whose `from_pretrained` loads it."""

    def prompt_text(self, text: str) -> str:
        """A prompt as its chat template writes it, up to where an answer begins: as it is, unless a family says otherwise."""
        return text

    def prepare(self, model: PreTrainedModel, attention: str) -> None:  # noqa: B027 - most families need nothing
        """What is done to a model that has just been loaded: nothing, unless a family says so.

        Args:
            model: changed in place.
            attention: transformers' attention implementation that was asked for.
        """

    def outside_graphs(self) -> None:
        """Have `torch.compile` leave out what it would compile anew for every row: attention among samples."""
        from emo_lightning.models.families.attention import attend_outside_graphs

        attend_outside_graphs()

    def prepare_pictures(self, model: PreTrainedModel, processor: Processor) -> None:  # noqa: B027 - most families need nothing
        """Have a model take pictures as `vision_inputs` gives them, where that is not as transformers gives them.

        Args:
            model: changed in place, before adapters are on it.
            processor: that belongs to it.
        """

    @abstractmethod
    def pixel_limits(self, processor: Processor) -> PixelLimits:
        """The limits of a processor."""

    @abstractmethod
    def set_pixel_limits(self, processor: Processor, limits: PixelLimits) -> None:
        """Set them; limits that are given to a call are ignored by some processors."""

    @abstractmethod
    def resized_size(self, processor: Processor, original: Size) -> Size:
        """(width, height) to which the processor resizes an image of that (width, height), computed without any image."""

    @abstractmethod
    def image_tokens(self, processor: Processor, resized: Size) -> int:
        """How many tokens a picture of that (width, height) after resizing takes in its sequence."""

    @abstractmethod
    def vision_inputs(self, processor: Processor, images: Sequence[Image.Image]) -> VisionInputs:
        """RGB pictures as inputs of the model."""

    def cached_inputs(self, processor: Processor, pictures: Sequence[CachedPicture]) -> VisionInputs:
        """As `vision_inputs`, of pictures that the same part has seen already: their states stand where pixels would."""
        raise NotImplementedError

    def picture_states(self, model: PreTrainedModel, inputs: Mapping[str, object], part: BackbonePart) -> Tensor:  # noqa: ARG002
        """What leaves a part of the model, (image tokens, width), in the order of the image tokens: what a cache keeps of pictures.

        Args:
            model: without adapters' wrapping; the part does not learn.
            inputs: tensors of `vision_inputs`.
            part: the vision tower, or the merger behind it.

        Raises:
            FamilyError: nothing is cached of this family.
        """
        msg = f"{self.title}: its pictures are not cached; set model.backbone.vision_cache to off"
        raise FamilyError(msg)

    def patch_counts(self, batch: Mapping[str, object]) -> list[int]:  # noqa: ARG002
        """How many rows of `pixels`, and of the vision tower's states, are of each picture of a batch.

        Raises:
            FamilyError: they cannot be told apart in this family.
        """
        msg = f"{self.title}: which patches are of which picture is not known"
        raise FamilyError(msg)

    @abstractmethod
    def position_inputs(self, input_ids: Tensor, image_token_id: int) -> dict[str, Tensor]:
        """What the model needs beside the tokens (B, T) to give them positions: inputs of the same shape, by their names."""

    @abstractmethod
    def work(
        self, model: PreTrainedModel, products: Mapping[BackbonePart, int], batch: Mapping[str, object], lengths: Sequence[int]
    ) -> dict[BackbonePart, Work]:
        """What a forward pass over a batch needs, by part; the language-model head is left out.

        Args:
            model: without adapters' wrapping.
            products: of the model (`products`).
            batch: of the collator.
            lengths: tokens of each sample, without padding.
        """

    def packed_positions(self, processor: Processor, length: int, image_at: int, resized: Size) -> Tensor:
        """What gives positions to the tokens of one sample that is packed with others: each begins anew.

        Args:
            processor: of the backbone.
            length: tokens of the sample, T.
            image_at: where its image tokens begin.
            resized: (width, height) of the picture as the model sees it.

        Returns:
            (axes, T) int64.
        """
        raise NotImplementedError

    def padded_positions(
        self,
        processor: Processor,  # noqa: ARG002
        mask: Tensor,  # noqa: ARG002
        image_at: Sequence[int],  # noqa: ARG002
        sizes: Sequence[Size],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """As `packed_positions`, of samples that are padded, where the model need not work them out: a key of the batch.

        Args:
            processor: of the backbone.
            mask: (B, T), 1 at tokens.
            image_at: where the image tokens of each begin, padding aside.
            sizes: (width, height) of each picture as the model sees it.
        """
        return {}

    def packed_states(
        self, model: PreTrainedModel, batch: Mapping[str, object], cache: Cache | None = None, *, ends: bool = False
    ) -> Tensor:
        """Hidden states after the final norm, (1, T, H), of samples that stand one after another in one row.

        Args:
            model: without adapters' wrapping.
            batch: of the collator, packed: `input_ids` (1, T), `positions` (axes, 1, T), `image_at`, `lengths`, and the pictures; with
                `branches` where several questions about an image share it.
            cache: that takes the keys and values of the row.
            ends: only states at the ends of samples are read, as far as `answer_ends` says; others may be zeros.
        """
        raise NotImplementedError

    def cache_of(self, model: PreTrainedModel, row: Cache, places: Tensor, mask: Tensor) -> Cache:  # noqa: ARG002
        """What generation goes on from, gathered from what the model has kept of a row (`packed_states` with a cache).

        Args:
            model: without adapters' wrapping.
            row: keys and values of the row.
            places: (B, T) of the tokens in the row that each of B questions has seen, padded on the left.
            mask: (B, T), which of them count.
        """
        from transformers import DynamicCache

        cache = DynamicCache(config=model.config.get_text_config())
        for number, kept in enumerate(row.layers):
            cache.update(*gathered(kept, places), number)
        return cache

    def go_on(self, model: PreTrainedModel, ahead: Tensor) -> None:  # noqa: B027 - positions of many families are places
        """Tell a model that generates from a cache where it has not filled the positions of what follows.

        Args:
            model: without adapters' wrapping.
            ahead: (B, 1), how far the position of a row's next token is ahead of its place; a picture takes fewer positions than places.
        """

    def padded_inputs(self, model: PreTrainedModel, batch: Mapping[str, object]) -> dict[str, object]:  # noqa: ARG002
        """What the body is called with for a padded batch: `model_inputs`, and what a family's workers have worked out for it.

        Args:
            model: without adapters' wrapping.
            batch: of the collator, or `model_inputs` of one.
        """
        return dict(self.model_inputs(batch))

    def extended(self, inputs: Mapping[str, Tensor], ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Model inputs with text tokens appended.

        Args:
            inputs: of the model, (B, T) each where they are of tokens; padded on the left.
            ids: (B, N).
            mask: (B, N), which of them count.
        """
        import torch

        # No token of a text is one of a picture, whatever its id.
        more = {"input_ids": ids, "attention_mask": mask, **self.position_inputs(ids, -1)}
        return {**inputs, **{name: torch.cat([inputs[name], added.to(inputs[name].dtype)], 1) for name, added in more.items()}}

    @abstractmethod
    def check_images(self, processor: Processor, batch: Mapping[str, object]) -> None:
        """Refuse a batch whose image tokens do not match its pictures: the model would mix them up, in silence.

        Raises:
            ValueError: names the key.
        """

    def products(self, model: PreTrainedModel) -> dict[BackbonePart, int]:
        """Products of one patch, or token, with the weights of each part; it walks all modules."""
        return {
            "vision": products_of(self.module(model, self.vision_blocks)),
            "merger": products_of(*(self.module(model, path) for path in self.mergers)),
            "language": products_of(*self.layers(model)),
        }

    def packs(self, model: PreTrainedModel) -> bool:
        """Whether attention keeps samples apart that stand in one row: `prepare` has switched the language model to it."""
        from emo_lightning.models.families.attention import LANGUAGE_ATTENTION

        return bool(self.module(model, self.language_model).config._attn_implementation == LANGUAGE_ATTENTION)  # type: ignore[union-attr]

    def image_token_id(self, processor: Processor) -> int:
        """Id of `image_token`."""
        return token_id(processor, self.image_token)

    def framed(self, processor: Processor, ids: Sequence[int], pictures: int = 1) -> list[int]:
        """A prompt's tokens with `image_frame` around each that stands for a picture.

        Args:
            processor: of the backbone.
            ids: of the chat template's text.
            pictures: that are asked about.

        Raises:
            FamilyError: the chat template does not write it once a picture.
        """
        token = self.image_token_id(processor)
        if (times := ids.count(token)) != pictures:
            wanted = ("one picture", "once") if pictures == 1 else (f"{pictures} pictures", f"{pictures} times")
            msg = f"the chat template writes {self.image_token!r} {times} times for {wanted[0]}; expected {wanted[1]} ({self.title})"
            raise FamilyError(msg)
        before, after = ([token_id(processor, token) for token in side] for side in self.image_frame)
        return [one for each in ids for one in ((*before, each, *after) if each == token else (each,))]

    def folded(self, processor: Processor, ids: Sequence[int]) -> list[int]:
        """A prompt's tokens as the chat template writes them: `image_token` once a picture, without `image_frame`.

        Args:
            processor: of the backbone.
            ids: of one sample, with a token for each piece of its picture.
        """
        token = self.image_token_id(processor)
        frame = {token_id(processor, name) for side in self.image_frame for name in side}
        kept = [(one, before) for one, before in zip(ids, [None, *ids], strict=False) if one not in frame]
        return [one for one, before in kept if not one == before == token]

    def end_of_turn_id(self, processor: Processor) -> int:
        """Id of `end_of_turn`."""
        return token_id(processor, self.end_of_turn)

    def model_inputs(self, batch: Mapping[str, object]) -> dict[str, Tensor]:
        """The part of a batch that the model takes.

        Raises:
            KeyError: an input is missing.
        """
        from torch import Tensor

        cached = next((key for key in CACHED_STATES.values() if key in batch), None)
        wanted = [cached if cached and name == self.pixels else name for name in self.inputs]
        missing = [name for name in wanted if name not in batch]
        if missing:
            msg = f"batch lacks {', '.join(missing)}; a {self.title} batch needs {', '.join(self.inputs)}"
            raise KeyError(msg)
        found = {name: batch[name] for name in wanted}
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def part_of(self, name: str) -> BackbonePart:
        """The part that a parameter or module belongs to, by its name, whatever it is wrapped in."""
        if any(self._within(name, path) for path in self.mergers):
            return "merger"
        return "vision" if self._within(name, self.vision_tower) else "language"

    def _within(self, name: str, path: str) -> bool:
        return f".{path}." in f".{name}."

    def module(self, model: PreTrainedModel, path: str) -> torch.nn.Module:
        """The module at one of this family's paths."""
        return model.get_submodule(path)

    def layers(self, model: PreTrainedModel) -> list[torch.nn.Module]:
        """The language model's layers, shallow to deep."""
        return list(model.get_submodule(self.decoder_layers).children())

    def units(self, model: PreTrainedModel) -> Iterable[torch.nn.Module]:
        """What fully sharded training gathers one at a time: blocks of the vision tower, then layers of the language model."""
        return [*model.get_submodule(self.vision_blocks).children(), *self.layers(model)]


def gathered(kept: object, places: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, heads, T, d) that a layer of a row's cache holds at (B, T) places."""
    layer = cast("DynamicLayer", kept)
    # Of (1, heads, T, d).
    keys, values = (cast("Tensor", one)[0][:, places].transpose(0, 1) for one in (layer.keys, layer.values))
    return keys, values


def products_of(*modules: torch.nn.Module) -> int:
    """Products of one token with the weights of all linear layers in these modules, those in 4 bits among them."""
    layers = (layer for module in modules for layer in module.modules())
    return sum(int(layer.in_features) * int(layer.out_features) for layer in layers if _is_linear(layer))


def _is_linear(layer: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    # A layer with an adapter has both numbers too, and so have the layers in it.
    return all(hasattr(layer, name) for name in ("in_features", "out_features", "weight")) and not any(layer.children())
