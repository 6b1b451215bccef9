"""Replies to a batch: drawn, read as the scorer reads them, judged, and compared within the replies to each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.batches import RolloutBatch
from emo_lightning.data.chat import parse_answer
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.rewards import Answers
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.policy_loss import Groups, advantages
from emo_lightning.models.reply_rows import ReplyRow, with_replies
from emo_lightning.models.sampling import (
    Engine,
    Replies,
    Sampling,
    check_replies,
    drawing_numbers,
    never_drawn,
    own_engine,
    without_distribution,
)
from emo_lightning.models.sound import NotFiniteAnswerError
from emo_lightning.tasks.grpo_config import GRPOConfig
from emo_lightning.tasks.grpo_rewards import Judge
from emo_lightning.tasks.tallies import Means


class Rollout(NamedTuple):
    """What a policy has said of the B images of a batch, G replies each, R in all."""

    asked: ReplyRow
    """The replies, behind their prompts."""
    sampled: Tensor
    """(S,) float32: log-probabilities of the tokens as they were drawn."""
    advantage: Tensor
    """(R,) float32."""
    counts: Tensor
    """(R,) bool."""

    def to(self, device: torch.device) -> Self:
        """The same, all on one device."""
        return self._replace(advantage=self.advantage.to(device), counts=self.counts.to(device))


class Drawn:
    """Replies to B images, G each, and what they are worth.

    Args:
        images: B.
        each: G.
        parts: names of the parts of the reward.
    """

    def __init__(self, images: int, each: int, parts: Sequence[str]) -> None:
        self.tokens: list[list[Tensor]] = [[] for _ in range(images)]
        self.log_p: list[list[Tensor]] = [[] for _ in range(images)]
        self.ended: NDArray[np.bool_] = np.zeros((images, each), dtype=bool)
        self.said: NDArray[np.int64] = np.full((images, each), len(EMOTIONS))
        """Positions in `EMOTIONS`, or 8 for none of them."""
        self.total: Array = np.zeros((images, each))
        self.parts: dict[str, Array] = {part: np.zeros((images, each)) for part in parts}
        self.wanted = self.asked_for = 0
        """Replies in which a token that is never drawn was the likeliest, of how many."""

    def put(self, images: Sequence[int], replies: Replies, answers: Answers, judged: Mapping[str, Array], total: Array) -> None:
        """Take the replies to some of the images, in place of those that they have."""
        each = self.ended.shape[1]
        said = [len(EMOTIONS) if one is None else one for one in answers.said]
        for at, image in enumerate(images):
            own = slice(at * each, (at + 1) * each)
            self.tokens[image], self.log_p[image] = replies.tokens[own], replies.log_p[own]
            self.ended[image], self.said[image], self.total[image] = replies.ended[own], said[own], total[own]
            for part, values in judged.items():
                self.parts[part][image] = values[own]
        if replies.wanted is not None:
            self.wanted += replies.wanted
            self.asked_for += len(replies.tokens)


@dataclass
class Rollouts:
    """What a task knows to make rollouts."""

    grpo: GRPOConfig
    """The algorithm."""
    sampling: Sampling
    """How replies are drawn."""
    judge: Judge
    """What they are worth."""
    seed: int
    """Of what is drawn."""
    engine: Engine = own_engine
    """What draws them."""

    def draw(self, policy: Backbone, batch: RolloutBatch, keys: tuple[str, ...], epoch: int) -> Drawn:
        """Replies to every image; where those to an image are alike (`Groups`) they are drawn again, `grpo.retries` times at most.

        Args:
            policy: that samples, in eval mode.
            batch: on its device.
            keys: that are asked for.
            epoch: of the training.

        Raises:
            NotFiniteAnswerError: the policy has no distribution to draw from, or sees none when it looks again.
        """
        each = self.sampling.replies
        drawn = Drawn(len(batch["key"]), each, list(self.judge.weights))
        todo, fillers = list(range(len(batch["key"]))), batch["filler"].tolist()
        banned = never_drawn(policy)
        for attempt in range(self.grpo.retries + 1):
            numbers = drawing_numbers(self.seed, epoch, [batch["key"][n] for n in todo], self.sampling, attempt)
            replies = self.engine(policy, batch, todo, numbers, self.sampling)
            if unsound := without_distribution(replies):
                rows = [todo[image] for image in sorted({number // each for number in unsound})]
                raise NotFiniteAnswerError(rows, [batch["key"][row] for row in rows])
            check_replies(replies, len(todo) * each, banned, self.sampling.max_new_tokens)
            of = [image for image in todo for _ in range(each)]
            padded = pad_sequence(replies.tokens, batch_first=True, padding_value=policy.processor.tokenizer.pad_token_id)
            texts = policy.processor.batch_decode(padded, skip_special_tokens=True)
            answers = read_answers(policy, batch, texts, of, keys)
            judged = self.judge.parts(answers, policy, batch["asked"], of)
            total = self.judge.total(judged)
            drawn.put(todo, replies, answers, judged, total)
            alike = self.groups(total, judged).alike.tolist()
            todo = [image for image, same in zip(todo, alike, strict=True) if same and not fillers[image]]
            if not todo:
                break
        return drawn

    def groups(self, total: Array, parts: Mapping[str, Array]) -> Groups:
        """Replies compared within those to each image.

        Args:
            total: of their rewards, image by image.
            parts: of them.
        """

        def by_image(values: Array) -> Tensor:
            return torch.from_numpy(values).view(-1, self.sampling.replies)

        right = by_image(parts["emotion"]) > 0 if "emotion" in parts else None
        rule, tolerance = self.grpo.rule, self.grpo.tolerance
        return advantages(by_image(total), divide=rule.divide, tolerance=tolerance, right=right)

    def compare(self, drawn: Drawn, batch: RolloutBatch, means: Means) -> Rollout:
        """Advantages, and which replies count.

        Args:
            drawn: see `draw`.
            batch: that was answered.
            means: takes what there is to log.
        """
        real = ~batch["filler"].cpu()
        groups = self.groups(drawn.total, drawn.parts)
        counts = groups.known & real[:, None]
        if self.grpo.cut == "leave_out":
            counts &= torch.from_numpy(drawn.ended)
        if self.grpo.leaves_out_alike:
            counts &= ~groups.alike[:, None]
        _measure(drawn, groups, counts.numpy(), real.numpy(), means)
        tokens = [one for own in drawn.tokens for one in own]
        sampled = torch.cat([one for own in drawn.log_p for one in own])
        return Rollout(with_replies(batch, tokens), sampled, groups.advantages.flatten(), counts.flatten())


def _measure(drawn: Drawn, groups: Groups, counts: NDArray[np.bool_], real: NDArray[np.bool_], means: Means) -> None:
    for name, values in {**drawn.parts, "total": drawn.total}.items():
        held = values[real][np.isfinite(values[real])]
        means.add(f"reward/{name}", float(held.sum()), held.size)
    lengths = np.array([[len(one) for one in own] for own in drawn.tokens])
    for name, found in {
        "length": lengths,
        "cut": ~drawn.ended,
        "unjudged": ~groups.known.numpy(),
        "counted": counts,
        "alike": groups.alike.numpy()[:, None],
    }.items():
        means.add(f"rollout/{name}", float(found[real].sum()), found[real].size)
    means.add("rollout/picture_tokens", drawn.wanted, drawn.asked_for)
    means.labels += np.bincount(drawn.said[real].ravel(), minlength=len(EMOTIONS) + 1)


def read_answers(
    policy: Backbone, batch: RolloutBatch, texts: Sequence[str], images: Sequence[int], keys: tuple[str, ...]
) -> Answers:
    """Replies as the scorer reads them.

    Args:
        policy: whose coordinates boxes have.
        batch: that was asked.
        texts: of the replies.
        images: of each reply, the number of its image in the batch.
        keys: that were asked for.
    """
    predictions = [
        parse_answer(
            text,
            id=batch["key"][image],
            original=batch["original_size"][image],
            resized=batch["resized_size"][image],
            codec=policy.family.codec,
        )
        for text, image in zip(texts, images, strict=True)
    ]
    return Answers(predictions, [batch["asked"].records[image] for image in images], keys)
