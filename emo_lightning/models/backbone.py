"""Qwen2.5-VL as this project uses it: loaded, adapted, frozen by parts, and read at its last layers.

A `Backbone` is a plain module that knows no Lightning. Every way in which transformers or peft would go on in silence with an
untrained, unquantised or mis-sized model is checked at loading and raises `BackboneError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emo_lightning.data.batches import ChatBatch, ModelInputs
from emo_lightning.data.collate import model_inputs
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.models.adapters import attach
from emo_lightning.models.backbone_config import PARTS, BackboneConfig, BackboneError, LoRA, Part, part_of
from emo_lightning.models.loss import emotion_terms, supervised_loss
from emo_lightning.models.pretrained import PROCESSOR_FILES, load_model, load_processor, locate

__all__ = ["PARTS", "Backbone", "BackboneConfig", "BackboneError", "LoRA", "Part", "attach", "load_backbone", "part_of"]


class Backbone(nn.Module):
    """A loaded Qwen2.5-VL with its processor.

    Args:
        model: `Qwen2_5_VLForConditionalGeneration`, or a `PeftModel` around it.
        processor: its processor, pixel limits set.
        config: as loaded.
    """

    def __init__(self, model: nn.Module, processor: Any, config: BackboneConfig) -> None:
        super().__init__()
        self.model: Any = model
        self.processor = processor
        self.config = config

    @property
    def base(self) -> Any:
        """The `Qwen2_5_VLForConditionalGeneration`, adapters injected."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def model_type(self) -> str:
        """Family name in the model's config, which decides the coordinates of boxes."""
        return str(self.base.config.model_type)

    @property
    def hidden_size(self) -> int:
        """H of the paper: width of the language model."""
        return int(self.base.config.text_config.hidden_size)

    def last_hidden_state(self, batch: ModelInputs) -> Tensor:
        """Hidden states after the final norm, (B, T, H); the language-model head is not run."""
        return self.base.model(**model_inputs(batch), use_cache=False).last_hidden_state

    def answer_loss(self, batch: ChatBatch, soft: bool = False, distribution_weight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Equation 1 on a batch with labels: (sum of -log p over supervised tokens, how many they are).

        One method from inputs to loss: a sharded model gathers its weights around it, the language-model head's among them.

        Args:
            batch: of the collator; with `distributions` where one of the two below is used.
            soft: the emotion's label is its distribution (see `emotion_terms`).
            distribution_weight: of the KL between the distribution and the model's over the eight words.
        """
        hidden = self.last_hidden_state(batch)
        total, count = supervised_loss(hidden, batch["labels"], self.base.lm_head)
        if soft or distribution_weight:
            total = total + emotion_terms(hidden, batch, self.base.lm_head, soft=soft, distribution_weight=distribution_weight)
        return total, count

    @torch.no_grad()
    def emotion_scores(self, batch: ModelInputs, words: EmotionWords) -> tuple[Tensor, Tensor]:
        """What the model would say next if its answer began with the key of the emotion.

        Args:
            batch: padded on the left and ending at the generation prompt of a question whose first key is the emotion.
            words: the eight in this backbone's tokens.

        Returns:
            Distribution over `EMOTIONS` (B, 8): the softmax over the eight first tokens; and the share (B,) of the whole
            vocabulary's probability that these eight tokens hold. Both float32.
        """
        inputs = model_inputs(batch)
        ids = inputs["input_ids"]
        begun = torch.tensor(words.before, device=ids.device).expand(len(ids), -1)
        longer: ModelInputs = {
            **inputs,
            "input_ids": torch.cat([ids, begun], 1),
            "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(begun)], 1),
            "mm_token_type_ids": torch.cat([inputs["mm_token_type_ids"], torch.zeros_like(begun)], 1),
        }
        hidden = self.last_hidden_state(longer)
        logits = self.base.lm_head(hidden[:, -1]).float()
        eight = logits[:, list(words.first)]
        return eight.softmax(-1), (eight.logsumexp(-1) - logits.logsumexp(-1)).exp()

    def hidden_states(self, batch: ModelInputs, num_layers: int = 4) -> Tensor:
        """The last layers' hidden states, (num_layers, B, T, H), shallow to deep; no other layer is kept (section 3.3).

        Equal to `hidden_states[-num_layers:]` of transformers: the last one is after the final norm.

        Raises:
            BackboneError: the model has fewer layers.
        """
        layers = self.base.model.language_model.layers
        if not 1 <= num_layers <= len(layers):
            msg = f"num_layers={num_layers}: this backbone has {len(layers)} layers, allowed: 1 to {len(layers)}"
            raise BackboneError(msg)
        kept: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out))
            for layer in layers[len(layers) - num_layers : -1]
        ]
        try:
            last = self.last_hidden_state(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*kept, last])

    @torch.no_grad()
    def generate(self, batch: ModelInputs, max_new_tokens: int) -> list[str]:
        """Greedy replies, one a row; the batch must be padded on the left and end at the generation prompt."""
        inputs = model_inputs(batch)
        out = self.base.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True)
        return self.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def parameter_groups(self) -> Iterator[tuple[Part, str, nn.Parameter]]:
        """(part, name, parameter) of everything that trains."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield part_of(name), name, parameter

    def counts(self) -> dict[str, int]:
        """Number of parameters: all, those that train, and both by part."""
        counts = {"total": 0, "trainable": 0} | {f"trainable/{part}": 0 for part in PARTS} | dict.fromkeys(PARTS, 0)
        for name, parameter in self.model.named_parameters():
            part = part_of(name)
            counts["total"] += parameter.numel()
            counts[part] += parameter.numel()
            if parameter.requires_grad:
                counts["trainable"] += parameter.numel()
                counts[f"trainable/{part}"] += parameter.numel()
        return counts

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> Path:
        """Write `adapter/` (peft) or, for full tuning, `model/` below `folder`; returns what was written.

        Args:
            folder: created if needed.
            weights: whole tensors by their names in `model`, where its own are shards; None takes its own.
        """
        target = folder / ("adapter" if hasattr(self.model, "peft_config") else "model")
        self.model.save_pretrained(target, state_dict=weights)
        self.processor.save_pretrained(target)
        return target

    def merged(self) -> Any:
        """The plain transformers model with the adapter folded into its weights (in place)."""
        return self.model.merge_and_unload() if hasattr(self.model, "peft_config") else self.model


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load model and processor, attach or restore the adapter, freeze what does not learn, and check all of it.

    Raises:
        BackboneError: unknown id or path, not of the family, adapter that does not match, quantisation or pixel limits that did
            not take effect, nothing to train.
    """
    base_path, adapter = locate(config.path)
    model = load_model(config, base_path)
    # Beside an adapter stands the processor that it was trained with: its pixel limits are not the base model's.
    own = adapter is not None and any((adapter / name).exists() for name in PROCESSOR_FILES)
    processor = load_processor(config, str(adapter) if own else base_path)
    model = attach(model, config, adapter, base_path)
    backbone = Backbone(model, processor, config)
    if config.gradient_checkpointing:
        # Reentrant checkpointing gives LoRA behind frozen inputs no gradient, in silence.
        backbone.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        # For the reentrant kind transformers also lets the inputs of both towers require gradients: a frozen vision tower would be
        # differentiated and computed twice, for nothing.
        backbone.base.disable_input_require_grads()
    return backbone
