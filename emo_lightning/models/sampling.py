"""Replies that are drawn from a policy: several to an image, all from one reading of it, and the same wherever and with whomever they are drawn.

A token is drawn by inverting the distribution's cumulative sum at a number of its own, which is a function of (seed, epoch, image, reply, place).
So no reply depends on what else is in its batch, on the device's generator, or on what was drawn before: a training that goes on draws what
it would have drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from emo_lightning.core.errors import InputError
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.policy_loss import allowed_log_probs
from emo_lightning.models.prefill import continuing

if TYPE_CHECKING:
    from transformers.generation.utils import GenerateOutput


@dataclass
class Sampling:
    """How replies are drawn; no other setting of the model's generation has a say."""

    replies: int = 8
    """To each image; their rewards are compared."""
    temperature: float = 1.0
    """Of the distribution that is drawn from, and that the loss is of."""
    max_new_tokens: int = 256
    """Of a reply; one that is cut there has not ended."""

    def __post_init__(self) -> None:
        for name, value, least in (("replies", self.replies, 2), ("max_new_tokens", self.max_new_tokens, 1)):
            if value < least:
                msg = f"sampling.{name}: found {value}; expected at least {least}"
                raise InputError(msg)
        if not 0 < self.temperature < 100:
            msg = f"sampling.temperature: found {self.temperature}; expected above 0, and below 100"
            raise InputError(msg)


class Replies(NamedTuple):
    """R replies, image by image."""

    tokens: list[Tensor]
    """(A,) int64 each: up to and with the mark of its end, or cut; at least one."""
    log_p: list[Tensor]
    """(A,) float32 each, of the policy as it sampled; not finite where it has no distribution, and then the token means nothing."""
    ended: list[bool]
    """Whether each has said its end mark."""
    wanted: int | None
    """Replies in which a token that is never drawn (`never_drawn`) would have been the likeliest; None: the engine does not tell."""


class Engine(Protocol):
    """What draws replies; whatever it is, its log-probabilities must be those of the policy that learns."""

    def __call__(
        self,
        backbone: Backbone,
        row: Mapping[str, object],
        images: Sequence[int],
        numbers: NDArray[np.float64],
        sampling: Sampling,
    ) -> Replies:
        """Draw replies.

        Args:
            backbone: the policy, in eval mode.
            row: of the collator, packed: one question about each image.
            images: of the row, which are answered.
            numbers: (len(images), replies, max_new_tokens), from 0 to below 1: what each token is drawn by.
            sampling: how.
        """
        ...


def drawing_numbers(seed: int, epoch: int, images: Sequence[str], sampling: Sampling, attempt: int = 0) -> NDArray[np.float64]:
    """(images, replies, max_new_tokens), from 0 to below 1: a function of these arguments, image by image.

    Args:
        seed: of the training.
        epoch: an image that comes again is answered anew.
        images: their ids.
        sampling: how many.
        attempt: a group that is drawn again is drawn otherwise.
    """
    rows = []
    for image in images:
        words = np.frombuffer(hashlib.sha256(image.encode("utf-8", "surrogateescape")).digest(), dtype=np.uint32)
        generator = np.random.Generator(np.random.PCG64([seed, epoch, attempt, *words.tolist()]))
        rows.append(generator.random((sampling.replies, sampling.max_new_tokens)))
    return np.stack(rows)


def never_drawn(backbone: Backbone) -> list[int]:
    """Ids of tokens that stand for pictures and their frames: a policy that says one would be read with a picture that is not there."""
    ends = set(backbone.end_token_ids)
    tokenizer, family = backbone.processor.tokenizer, backbone.family
    names = {family.image_token, *family.image_frame[0], *family.image_frame[1], *family.picture_tokens}
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary[name] for name in names if name in vocabulary and vocabulary[name] not in ends)


@torch.no_grad()
def own_engine(
    backbone: Backbone,
    row: Mapping[str, object],
    images: Sequence[int],
    numbers: NDArray[np.float64],
    sampling: Sampling,
) -> Replies:
    """The policy itself, by transformers' generation, from one reading of each image; see `Engine`."""
    whole = backbone.read(row)
    read = replace(whole, numbers=[whole.numbers[n] for n in images], places=[whole.places[n] for n in images])
    count, replies, most = numbers.shape
    device, ends = backbone.base.device, torch.tensor(backbone.end_token_ids, device=backbone.base.device)
    padding = backbone.processor.tokenizer.pad_token_id
    inputs = continuing(backbone.base, backbone.family, padding, read, [0] * replies)
    # All images' first replies, then all images' second.
    turned = torch.from_numpy(np.ascontiguousarray(numbers.swapaxes(0, 1).reshape(replies * count, most)))
    draws = _Draws(turned.to(device), torch.tensor(never_drawn(backbone), device=device), ends, sampling.temperature)
    with _no_settings(backbone, ends.tolist(), padding):
        generate = cast("_Generates", backbone.base).generate
        drawn = LogitsProcessorList([draws])
        out = generate(**inputs, max_new_tokens=most, do_sample=False, use_cache=True, logits_processor=drawn)
    said = cast(Tensor, out)[:, cast(Tensor, inputs["input_ids"]).shape[1] :]
    is_end = torch.isin(said, ends)
    counts = ((is_end.cumsum(1) - is_end.long()) == 0).sum(1).tolist()
    log_p = torch.stack(draws.log_p, 1)
    ended = is_end.any(1).tolist()
    order = [reply * count + image for image in range(count) for reply in range(replies)]
    return Replies(
        [said[at, : counts[at]] for at in order],
        [log_p[at, : counts[at]] for at in order],
        [ended[at] for at in order],
        int(draws.wanted.sum()),
    )


@contextmanager
def _no_settings(backbone: Backbone, ends: Sequence[int], padding: int) -> Iterator[None]:
    """The model's own settings of generation have no say: a penalty on repetition is no part of the distribution that learns."""
    own = backbone.base.generation_config
    backbone.base.generation_config = GenerationConfig(eos_token_id=list(ends), pad_token_id=padding)
    try:
        yield
    finally:
        backbone.base.generation_config = own


def without_distribution(replies: Replies) -> list[int]:
    """Numbers of the replies whose log-probabilities are not finite: what was to say them has become NaN."""
    sums = [log_p.float().sum() for log_p in replies.log_p]
    return [] if not sums else (~torch.stack(sums).isfinite()).nonzero()[:, 0].tolist()


def check_replies(replies: Replies, expected: int, banned: Sequence[int], most_tokens: int) -> None:
    """Refuse what no policy of ours can have said: it would be learnt from in silence.

    Args:
        replies: of an engine.
        expected: how many.
        banned: ids that are never drawn.
        most_tokens: of a reply.

    Raises:
        ValueError: says what is wrong with which reply.
    """
    if len(replies.tokens) != expected:
        msg = f"the engine gave {len(replies.tokens)} replies; expected {expected}"
        raise ValueError(msg)
    lengths = [len(tokens) for tokens in replies.tokens]
    if [len(log_p) for log_p in replies.log_p] != lengths or min(lengths) < 1 or max(lengths) > most_tokens:
        msg = f"the engine gave replies of {min(lengths)} to {max(lengths)} tokens; expected 1 to {most_tokens}, and a log-probability each"
        raise ValueError(msg)
    tokens = torch.cat(replies.tokens)
    if (wrong := torch.isin(tokens, torch.tensor(banned, device=tokens.device))).any():
        number = int(torch.bucketize(wrong.nonzero()[0, 0].cpu(), torch.tensor(lengths).cumsum(0), right=True))
        msg = f"reply {number} of the engine holds a token that stands for a picture ({int(tokens[wrong][0])}); such tokens are never drawn"
        raise ValueError(msg)


class _Generates(Protocol):
    """The method of transformers' `GenerationMixin`."""

    def generate(self, **inputs: object) -> Tensor | GenerateOutput:
        """(B, T + A) token ids."""
        ...


class _Draws(LogitsProcessor):
    """Makes of every row's logits those of the one token that is drawn, so that greedy generation takes it."""

    def __init__(self, numbers: Tensor, banned: Tensor, ends: Tensor, temperature: float) -> None:
        self.numbers, self.banned, self.ends, self.temperature = numbers, banned, ends, temperature
        self.log_p: list[Tensor] = []
        self.wanted = torch.zeros(len(numbers), dtype=torch.bool, device=numbers.device)
        self._over = torch.zeros_like(self.wanted)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary) -> the same, minus infinity at all tokens but one."""
        place = len(self.log_p)
        if place:
            self._over |= torch.isin(input_ids[:, -1], self.ends)
        self.wanted |= torch.isin(scores.argmax(-1), self.banned) & ~self._over
        log_p = allowed_log_probs(scores, self.banned, self.temperature)
        # In float64: the sum of 150,000 numbers decides.
        cumulative = log_p.double().exp().cumsum(-1)
        whole = cumulative[:, -1:]
        aim = torch.minimum(self.numbers[:, place, None] * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        # The first whose sum is above: one of probability 0 is never that.
        token = torch.searchsorted(cumulative, aim, right=True)
        # No sum is above where they are NaN, and the place behind the last would be an error on the device. Such a reply ends at once;
        # its log-probability says what it is (`without_distribution`).
        token = torch.where(whole.isfinite(), token, self.ends[0])
        self.log_p.append(log_p.gather(1, token)[:, 0])
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)
