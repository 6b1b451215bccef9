"""A vision-language model as this project uses it: its loss, its answers, and its states at the last layers.

A `Backbone` is a plain module that knows no Lightning; `loading.load_backbone` makes one. What depends on the family of the model
(module names, inputs, boxes) is in its `Family`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList

from emo_lightning.core.model_folders import weights_hash, write_made_of
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.models.adapters import check_mergeable
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError
from emo_lightning.models.families import BACKBONE_PARTS, BackbonePart, Family, Processor
from emo_lightning.models.loss import emotion_terms, supervised_loss
from emo_lightning.models.prefill import Read, continuing, last_layers, outputs_of, read_row
from emo_lightning.models.rows import states_apart
from emo_lightning.models.sound import WatchedScores, check_rows
from emo_lightning.models.token_stream import OnTokens, TokenStreamer
from emo_lightning.models.weights import save_model

if TYPE_CHECKING:
    from peft import LoraModel, PeftModel
    from transformers import PreTrainedModel


class Backbone(nn.Module):
    """A loaded vision-language model with its processor.

    Args:
        model: transformers' model with its language-model head, or a `PeftModel` around it.
        family: that it is of.
        processor: its processor, pixel limits set.
        config: as loaded.
        made_of: what is trained now is made from, part -> content hash; `save` writes it.
    """

    model: PreTrainedModel | PeftModel

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        family: Family,
        processor: Processor,
        config: BackboneConfig,
        made_of: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.family = family
        self.processor = processor
        self.config = config
        self.made_of = dict(made_of or {})

    @property
    def adapted(self) -> bool:
        """Whether adapters are on the model."""
        return hasattr(self.model, "peft_config")

    @property
    def base(self) -> PreTrainedModel:
        """Transformers' model, adapters injected."""
        return _unwrapped(self.model)

    @property
    def model_type(self) -> str:
        """Name of the family, as in the model's config."""
        return self.family.model_type

    @property
    def packs(self) -> bool:
        """Whether it takes samples that are packed into one row: other implementations of attention would mix them."""
        return self.family.packs(self.base)

    @property
    def hidden_size(self) -> int:
        """H of the paper: width of the language model."""
        return int(self.base.config.get_text_config().hidden_size)

    @property
    def end_token_ids(self) -> list[int]:
        """Tokens at which the model's answer ends."""
        config = self.base.generation_config
        ends = None if config is None else config.eos_token_id
        return [ends] if isinstance(ends, int) else list(ends or ())

    @property
    def lm_head(self) -> nn.Module:
        """From hidden states to the vocabulary."""
        return self.family.module(self.base, self.family.lm_head)

    def last_hidden_state(self, batch: Mapping[str, object], *, ends: bool = False) -> Tensor:
        """Hidden states after the final norm, (B, T, H), or (1, T, H) of a packed batch; the language-model head is not run.

        Args:
            batch: packed or padded.
            ends: of a packed batch only those at the ends of samples are read, as far as `answer_ends` says; others may be zeros.
        """
        if "lengths" in batch:
            return self.family.packed_states(self.base, batch, ends=ends)
        body = self.family.module(self.base, self.family.body)
        hidden: Tensor = body(**self.family.padded_inputs(self.base, batch), use_cache=False).last_hidden_state
        return hidden

    def answer_loss(self, batch: ChatBatch, soft: bool = False, distribution_weight: float = 0.0) -> tuple[Tensor, Tensor]:
        """Equation 1 on a batch with labels: (sum of -log p over supervised tokens, how many they are).

        Both are weighed by `label_weights` where the batch has them.

        One method from inputs to loss: a sharded model gathers its weights around it, the language-model head's among them.

        Args:
            batch: of the collator; with `distributions` where one of the two below is used.
            soft: the emotion's label is its distribution (see `emotion_terms`).
            distribution_weight: of the KL between the distribution and the model's over the eight words.
        """
        hidden = self.last_hidden_state(batch, ends=True)
        total, count = supervised_loss(
            hidden, batch["labels"], self.lm_head, batch.get("answer_at"), batch.get("label_weights")
        )
        if soft or distribution_weight:
            total = total + emotion_terms(hidden, batch, self.lm_head, soft=soft, distribution_weight=distribution_weight)
        return total, count

    @torch.no_grad()
    def emotion_scores(self, batch: Mapping[str, object], words: EmotionWords) -> tuple[Tensor, Tensor]:
        """What the model would say next if its answer began with the key of the emotion.

        Args:
            batch: packed, or padded on the left, and ending at the generation prompt of a question whose first key is the emotion.
            words: the eight in this backbone's tokens.

        Returns:
            Distribution over `EMOTIONS` (B, 8): the softmax over the eight first tokens; and the share (B,) of the whole
            vocabulary's probability that these eight tokens hold. Both float32.
        """
        if "lengths" in batch:
            return self.word_scores(self.read(batch, {0: words.before}).states, words)
        inputs = self.family.model_inputs(batch)
        begun = torch.tensor(words.before, device=self.base.device).expand(len(inputs["input_ids"]), -1)
        hidden = self.last_hidden_state(self.family.extended(inputs, begun, torch.ones_like(begun)))
        return self.word_scores(hidden[:, -1], words)

    @torch.no_grad()
    def word_scores(self, states: Tensor, words: EmotionWords) -> tuple[Tensor, Tensor]:
        """See `emotion_scores`.

        Args:
            states: (B, H) after the final norm, where the emotion's word is next.
            words: the eight in this backbone's tokens.

        Raises:
            NotFiniteAnswerError: a row's logits are not finite.
        """
        logits: Tensor = self.lm_head(states).float()
        check_rows(logits)
        eight = logits[:, list(words.first)]
        return eight.softmax(-1), (eight.logsumexp(-1) - logits.logsumexp(-1)).exp()

    def hidden_states(self, batch: Mapping[str, object], num_layers: int = 4) -> Tensor:
        """The last layers' hidden states, (num_layers, B, T, H), shallow to deep; no other layer is kept (section 3.3). B is 1 for a row.

        Equal to `hidden_states[-num_layers:]` of transformers: the last one is after the final norm.

        Raises:
            BackboneError: the model has fewer layers.
        """
        layers = self.family.layers(self.base)
        if not 1 <= num_layers <= len(layers):
            msg = f"num_layers={num_layers}: this backbone has {len(layers)} layers, allowed: 1 to {len(layers)}"
            raise BackboneError(msg)
        with last_layers(layers, num_layers) as kept:
            last = self.last_hidden_state(batch)
        return torch.stack([*kept, last])

    def features(self, batch: ChatBatch, num_layers: int = 4) -> tuple[Tensor, Tensor]:
        """`hidden_states` of each sample of a batch, packed or padded.

        Returns:
            (num_layers, B, T, H), and which of the T are tokens, (B, T) bool.
        """
        states = self.hidden_states(batch, num_layers)
        return states_apart(states, batch["lengths"]) if "lengths" in batch else (states, batch["attention_mask"].bool())

    @contextmanager
    def watching_tower(self) -> Iterator[list[Tensor]]:
        """Keep what leaves the last block of the vision tower while pictures are read: (patches, width) of each reading."""
        blocks = list(self.family.module(self.base, self.family.vision_blocks).children())
        with outputs_of([blocks[-1]]) as kept:
            yield kept

    @torch.no_grad()
    def answer_tokens(self, batch: Mapping[str, object], max_new_tokens: int, on_tokens: OnTokens | None = None) -> Tensor:
        """Greedy answers (B, A), A at most `max_new_tokens`.

        Args:
            batch: packed, or padded on the left, and ending at the generation prompt.
            max_new_tokens: of an answer.
            on_tokens: told after every token.

        Raises:
            NotFiniteAnswerError: what the model makes of a row is no number.
        """
        if "lengths" in batch:
            return self._reply_tokens(self.read(batch), [0], max_new_tokens, on_tokens)
        return self._generated(self.family.padded_inputs(self.base, self.family.model_inputs(batch)), max_new_tokens, on_tokens)

    def _generated(self, inputs: Mapping[str, object], max_new_tokens: int, on_tokens: OnTokens | None = None) -> Tensor:
        watched = WatchedScores(self.end_token_ids)
        more: dict[str, object] = {"logits_processor": LogitsProcessorList([watched])}
        if on_tokens is not None:
            more["streamer"] = TokenStreamer(on_tokens)
        out = _generative(self.base).generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True, **more)
        watched.check()
        return out[:, cast(Tensor, inputs["input_ids"]).shape[1] :]

    def read(self, row: Mapping[str, object], after: Mapping[int, Sequence[int]] | None = None, layers: int = 0) -> Read:
        """Questions that stand in one row, several about an image among them, in one forward pass; see `read_row`."""
        return read_row(self.base, self.family, row, after, layers)

    @torch.no_grad()
    def reply_tokens(self, read: Read, number: int, max_new_tokens: int) -> Tensor:
        """As `answer_tokens`, to one of the questions about each image that have been read."""
        return self._reply_tokens(read, [number], max_new_tokens)

    def _reply_tokens(
        self, read: Read, numbers: Sequence[int], max_new_tokens: int, on_tokens: OnTokens | None = None
    ) -> Tensor:
        padding = self.processor.tokenizer.pad_token_id
        return self._generated(continuing(self.base, self.family, padding, read, numbers), max_new_tokens, on_tokens)

    def replies(self, read: Read, number: int, max_new_tokens: int) -> list[str]:
        """As texts, one an image; see `reply_tokens`."""
        return self.processor.batch_decode(self.reply_tokens(read, number, max_new_tokens), skip_special_tokens=True)

    @torch.no_grad()
    def all_replies(
        self, read: Read, numbers: Sequence[int], max_new_tokens: int, on_tokens: OnTokens | None = None
    ) -> list[list[str]]:
        """Answers to several questions about each image, written side by side: by question, one an image.

        Args:
            read: the questions.
            numbers: of those that are answered.
            max_new_tokens: of an answer.
            on_tokens: told after every token; the rows are all images' first question, then all images' second.
        """
        tokens = self._reply_tokens(read, numbers, max_new_tokens, on_tokens)
        texts = self.processor.batch_decode(tokens, skip_special_tokens=True)
        images = len(texts) // len(numbers)
        return [texts[start : start + images] for start in range(0, len(texts), images)]

    def generate(self, batch: Mapping[str, object], max_new_tokens: int, on_tokens: OnTokens | None = None) -> list[str]:
        """Greedy answers as texts, one a row; see `answer_tokens`."""
        return self.processor.batch_decode(self.answer_tokens(batch, max_new_tokens, on_tokens), skip_special_tokens=True)

    def part_of(self, name: str) -> BackbonePart:
        """The part that a parameter belongs to, by its name."""
        return self.family.part_of(name)

    def parameter_groups(self) -> Iterator[tuple[BackbonePart, str, nn.Parameter]]:
        """(part, name, parameter) of everything that trains."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield self.part_of(name), name, parameter

    def counts(self) -> dict[str, int]:
        """Number of parameters: all, those that train, and both by part."""
        counts = (
            {"total": 0, "trainable": 0}
            | {f"trainable/{part}": 0 for part in BACKBONE_PARTS}
            | dict.fromkeys(BACKBONE_PARTS, 0)
        )
        for name, parameter in self.model.named_parameters():
            part = self.part_of(name)
            counts["total"] += parameter.numel()
            counts[part] += parameter.numel()
            if parameter.requires_grad:
                counts["trainable"] += parameter.numel()
                counts[f"trainable/{part}"] += parameter.numel()
        return counts

    @cached_property
    def _products(self) -> dict[BackbonePart, int]:
        # Asked in every step; modules do not change.
        return self.family.products(self.base)

    def step_flops(self, batch: ChatBatch, lengths: Sequence[int]) -> float:
        """Floating-point operations that a training step on a batch needs; those of checkpointing, done twice, count once.

        As many as the forward pass again for gradients of activations, where something before trains, and once more where weights
        themselves do. So a frozen model's are those of the forward pass.

        Args:
            batch: on the CPU; without labels the language-model head is not run.
            lengths: tokens of each sample, without padding.
        """
        text = self.base.config.get_text_config()
        answers = int((batch["labels"] != IGNORE_INDEX).sum()) if "labels" in batch else 0
        total, before = 0.0, False
        for part, work in self.family.work(self.base, self._products, batch, lengths).items():
            learns = self.config.trains(part)
            before = before or learns
            whole = learns and self.config.tuning == "full"
            weights = work.weights + (2.0 * text.vocab_size * text.hidden_size * answers if part == "language" else 0.0)
            total += weights * (1 + before + whole) + work.attention * (1 + 2 * before)
        return total

    def save(self, folder: Path, weights: dict[str, Tensor] | None = None) -> Path:
        """Write `adapter/` (peft) or, for full tuning, `model/` below `folder`; returns what was written.

        Args:
            folder: created if needed.
            weights: whole tensors by their names in `model`, where its own are shards; None takes its own.
        """
        target = folder / ("adapter" if self.adapted else "model")
        save_model(self.model, self.processor, target, weights)
        write_made_of(target, self.made_of)
        return target

    def sources(self, path: str) -> dict[str, str]:
        """What decides its hidden states beside the prompt, as caches and heads name it.

        Args:
            path: that it was loaded from.
        """
        return {"backbone": weights_hash(path), "pixels": self.pixels}

    @property
    def pixels(self) -> str:
        """How many pixels a picture has for it, as caches and heads name it."""
        limits = self.family.pixel_limits(self.processor)
        return f"{limits.lowest} to {limits.highest}"

    def merged(self) -> PreTrainedModel:
        """Transformers' plain model with the adapter folded into its weights (in place).

        Raises:
            BackboneError: the adapter is on a tied head or embedding.
        """
        if not self.adapted:
            return self.base
        check_mergeable(self.base)
        # peft gives the methods of its tuners by `__getattr__`, which has no types.
        return cast("PreTrainedModel", cast("LoraModel", self.model).merge_and_unload())


def _unwrapped(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model inside a `PeftModel`, or the model."""
    return cast("PreTrainedModel", cast("PeftModel", model).get_base_model() if hasattr(model, "peft_config") else model)


class _Generative(Protocol):
    """The method of transformers' `GenerationMixin`, whose own annotation leaves open what comes out."""

    def generate(self, **inputs: object) -> Tensor:
        """(B, T + A) token ids."""
        ...


def _generative(model: PreTrainedModel) -> _Generative:
    return cast("_Generative", model)  # every family's class mixes `GenerationMixin` in
