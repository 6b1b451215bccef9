"""Rewards of a step: parts that need the reply alone, and those for which the policy looks at a picture again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image

from emo_lightning.data.batches import Asked
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.data.images import masked, whole_pixels
from emo_lightning.metrics import rewards as reward
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.emotion_space import EmotionSpace, read_embeddings, read_lexicon
from emo_lightning.metrics.rewards import Answers
from emo_lightning.models.backbone import Backbone
from emo_lightning.tasks.grpo_config import Rewards

_PICTURES = 16
"""That are looked at again together."""


class Judge:
    """Gives every reply its parts.

    Args:
        rewards: weights, and files; these are read here.
    """

    def __init__(self, rewards: Rewards) -> None:
        self.weights = {part: weight for part, weight in rewards.parts.items() if weight > 0}
        self.tau = rewards.tau
        self._spaces: dict[str, EmotionSpace] = {}
        if "valence_arousal" in self.weights and rewards.anchors is not None:
            self._spaces["valence_arousal"] = rewards.anchors.space
        if "embedding" in self.weights and rewards.embeddings is not None:
            self._spaces["embedding"] = read_embeddings(rewards.embeddings)
        needed = "divergence" in self.weights and rewards.lexicon is not None
        self._lexicon = read_lexicon(rewards.lexicon) if needed and rewards.lexicon is not None else None

    @property
    def looks_again(self) -> bool:
        """Whether a part needs the pictures."""
        return "counterfactual" in self.weights

    def parts(self, answers: Answers, policy: Backbone, asked: Asked, images: Sequence[int]) -> dict[str, Array]:
        """Part -> (N,), NaN where it could not be judged; 0 of a reply that leaves the emotion open (`Answers.decided`).

        Args:
            answers: N replies.
            policy: that is asked again, in eval mode.
            asked: annotations and pictures of the batch.
            images: of each reply, the number of its image in the batch.
        """
        found = {part: self._part(part, answers, policy, asked, images) for part in self.weights}
        return {part: np.where(answers.decided, values, 0.0) for part, values in found.items()}

    def total(self, parts: dict[str, Array]) -> Array:
        """(N,): the weighted sum; NaN where a part is."""
        found: Array = np.sum([self.weights[part] * values for part, values in parts.items()], axis=0)
        return found

    def _part(self, part: str, answers: Answers, policy: Backbone, asked: Asked, images: Sequence[int]) -> Array:
        match part:
            case "emotion":
                return reward.right_emotion(answers)
            case "valence_arousal" | "embedding":
                return reward.near_emotion(answers, self._spaces[part].distances)
            case "format":
                return reward.well_formed(answers)
            case "box":
                return reward.box_overlap(answers)
            case "intensity":
                return reward.near_intensity(answers)
            case "counterfactual":
                return counterfactual(answers, policy, [asked.images[n] for n in images])
            case "divergence" if self._lexicon is not None:
                return reward.divergence(answers, self._lexicon, self.tau)
            case _:
                msg = f"reward {part!r}; allowed: {', '.join(Rewards().parts)}"
                raise ValueError(msg)


def counterfactual(answers: Answers, policy: Backbone, pictures: Sequence[Image.Image]) -> Array:
    """(N,): by how much the probability of the emotion that a reply says falls when the largest box that it says is covered.

    0 for a reply without an emotion or without a box within the picture. Both probabilities are the policy's over the eight words, asked
    for nothing but the emotion: what else a reply says has no part in them.

    Args:
        answers: N replies.
        policy: in eval mode.
        pictures: of each reply; those to one image are one object.
    """
    found = np.zeros(len(pictures))
    whole: dict[int, int] = {}
    looked: list[Image.Image] = []
    cases: list[tuple[int, int, int, int, float]] = []
    for n, (said, prediction, picture) in enumerate(zip(answers.said, answers.predictions, pictures, strict=True)):
        boxes = [box for one in prediction.objects if (box := whole_pixels(one.bbox, picture.size)) is not None]
        if said is None or not boxes:
            continue
        box = max(boxes, key=lambda one: (one[2] - one[0]) * (one[3] - one[1]))
        if id(picture) not in whole:
            whole[id(picture)] = len(looked)
            looked.append(picture)
        share = (box[2] - box[0]) * (box[3] - box[1]) / (picture.width * picture.height)
        cases.append((n, said, whole[id(picture)], len(looked), share))
        looked.append(masked(picture, box, "mean"))
    p = emotion_probabilities(policy, looked)
    for n, said, seen, covered, share in cases:
        found[n] = reward.covered_fall(float(p[seen, said]), float(p[covered, said]), share)
    return found


@torch.no_grad()
def emotion_probabilities(policy: Backbone, pictures: Sequence[Image.Image]) -> Array:
    """(N, 8): the policy's distribution over the eight words, of pictures."""
    words = EmotionWords.of_question(policy.processor.tokenizer)
    collate = Collator(policy.processor, policy.model_type, answers=False, packed=policy.packs)
    keys = objective("emotion").keys
    found: list[Array] = [np.zeros((0, 8))]
    for start in range(0, len(pictures), _PICTURES):
        some = pictures[start : start + _PICTURES]
        batch = collate([Question(str(n), picture, keys) for n, picture in enumerate(some)])
        moved = move_data_to_device(batch, policy.base.device)
        found.append(policy.emotion_scores(moved, words)[0].double().cpu().numpy())
    return np.concatenate(found)
