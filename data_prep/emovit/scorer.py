"""The eight labels scored by an InstructBLIP: one distribution per image, batched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from transformers import AddedToken, InstructBlipForConditionalGeneration, InstructBlipProcessor

from data_prep.local_models.checkpoints import CheckpointError, complete, pretrained
from emo_lightning.core.records import EMOTIONS, Emotion

if TYPE_CHECKING:
    from PIL import Image

ANSWER_PREFIX = "Predict emotion: "
"""How EmoViT was taught to begin its answer; the label follows, then the end of the sequence."""


class LocalVoter:
    """p(label | image, prompt) ∝ p("Predict emotion: label", end of sequence | image, prompt), over the eight labels.

    The log-probabilities of a label's tokens are summed, end included, and not divided by their number: the sum is the
    probability that the model gives this answer and no other, so the distribution is the model's own, restricted to the eight. A mean
    per token would favour labels of many tokens, whose later tokens are all but certain.

    Args:
        model: `InstructBlipForConditionalGeneration` with a decoder-only language model.
        processor: of the same checkpoint.
        prompt: the question.
        device: where the model runs.
        batch_size: images that go through it together.

    Raises:
        CheckpointError: the language model has an encoder, or the checkpoint names no image token.
    """

    def __init__(
        self,
        model: InstructBlipForConditionalGeneration,
        processor: InstructBlipProcessor,
        prompt: str,
        *,
        device: str = "cpu",
        batch_size: int = 8,
    ) -> None:
        if not model.config.use_decoder_only_language_model:
            msg = f"language model {getattr(model.config.text_config, 'model_type', None)!r}: EmoViT's is decoder-only (Vicuna)"
            raise CheckpointError(msg)
        if model.config.image_token_id is None:
            msg = "the configuration of the checkpoint has no image_token_index; take a newer base model"
            raise CheckpointError(msg)
        if processor.num_query_tokens is None:
            processor.num_query_tokens = model.config.num_query_tokens
        if isinstance(processor.image_token, str):
            # A tokenizer that names its image token gives a string where the processor wants a token.
            processor.image_token = AddedToken(processor.image_token, normalized=False, special=True)
        self.model = model.to(device).eval()  # type: ignore[arg-type]  # transformers' decorator hides `self`
        self.processor = processor
        self.prompt = prompt
        self.device = device
        self.batch_size = batch_size
        self.shared, self.endings = self._answers()

    @classmethod
    def from_pretrained(cls, name: str, prompt: str, *, device: str = "cpu", batch_size: int = 8) -> Self:
        """Load a converted folder (or a hub name): bfloat16 on a GPU, else float32.

        Raises:
            CheckpointError: no such model, or it leaves weights unset.
        """
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        model = complete(InstructBlipForConditionalGeneration.from_pretrained, name, dtype=dtype)
        return cls(model, pretrained(InstructBlipProcessor.from_pretrained, name), prompt, device=device, batch_size=batch_size)

    def _answers(self) -> tuple[list[int], list[list[int]]]:
        """Tokens that all eight answers begin with, and how each goes on, end of sequence included."""
        tokenizer = self.processor.tokenizer
        if tokenizer.eos_token_id is None:
            msg = "the tokenizer of the checkpoint has no end-of-sequence token"
            raise CheckpointError(msg)
        answers = [
            [*tokenizer(f"{ANSWER_PREFIX}{emotion}", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            for emotion in EMOTIONS
        ]
        common = 0
        while len({answer[common] for answer in answers}) == 1:
            common += 1
        return answers[0][:common], [answer[common:] for answer in answers]

    def vote(self, images: Sequence[Image.Image]) -> list[dict[Emotion, float]]:
        """A distribution over the eight for each image; it does not depend on the other images."""
        votes = []
        for at in range(0, len(images), self.batch_size):
            scores = self.log_probabilities(images[at : at + self.batch_size])
            votes += [dict(zip(EMOTIONS, row, strict=True)) for row in torch.softmax(scores, dim=-1).tolist()]
        return votes

    @torch.inference_mode()
    def log_probabilities(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Log p(rest of the answer | image, prompt, shared beginning), float64 on the CPU, shape (images, 8).

        Image, prompt and beginning go through the model once; their keys and values are shared by the eight endings.
        """
        inputs = self.processor(images=list(images), text=[self.prompt] * len(images), return_tensors="pt").to(self.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        shared = torch.tensor(self.shared, dtype=torch.long, device=self.device).expand(len(images), -1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], shared], dim=1)
        # All prompts are equal, so nothing is padded.
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        outputs = self.model(**inputs, use_cache=True)
        # Shape (images, vocabulary): what comes after the beginning.
        first = outputs.logits[:, -1].float().log_softmax(-1)
        longest = max(map(len, self.endings))
        # Padding stands after the ends, where a causal model does not see it from before; its scores are masked.
        endings = torch.tensor([[*e, *[e[-1]] * (longest - len(e))] for e in self.endings], device=self.device)
        counted = torch.tensor([[i < len(e) for i in range(longest)] for e in self.endings], device=self.device)
        cache = outputs.language_model_outputs.past_key_values
        cache.batch_repeat_interleave(len(EMOTIONS))
        after = self.model.language_model(
            input_ids=endings.repeat(len(images), 1)[:, :-1],
            attention_mask=torch.ones(
                len(images) * len(EMOTIONS), inputs["input_ids"].shape[1] + longest - 1, dtype=torch.long, device=self.device
            ),
            past_key_values=cache,
            use_cache=True,
        ).logits
        # Shape (images, 8, longest − 1, vocabulary).
        rest = after.float().log_softmax(-1).unflatten(0, (len(images), len(EMOTIONS)))
        scores = torch.cat(
            [
                first[:, endings[:, 0], None],
                rest.gather(-1, endings[None, :, 1:, None].expand(len(images), -1, -1, 1))[..., 0],
            ],
            dim=-1,
        )
        return scores.double().masked_fill(~counted, 0.0).sum(-1).cpu()
