"""What a reply is worth: parts from 0 to 1, each a function of what was said and what was annotated.

What is right is decided by the very functions that `emo eval` scores by: a reward that reads a reply otherwise than the scorer teaches to
please the reward. In one thing a reward is stricter: a reply that names no emotion, or several (`ReadReplies.decided`), is worth nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.emotions import named_emotion
from emo_lightning.core.records import EMOTIONS, Prediction, Record
from emo_lightning.core.replies import AMBIGUOUS, UnreadableReplyError, asked_values, json_values, values_said
from emo_lightning.metrics.accumulators import ScoredBatch
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.emotion_space import Lexicon
from emo_lightning.metrics.scores import BoxScores, EmotionScores, IntensityScores

NUM_CANDIDATES = 5
"""Words that a reply of the objective `candidates` should hold (K of DSPO)."""


@dataclass(frozen=True)
class ReadReplies:
    """N replies as they were read, and the annotations of their images.

    Args:
        predictions: of `data.chat.parse_answer`, the reply itself in `provenance`.
        records: the annotation of each reply's image.
        keys: that were asked for.
    """

    predictions: Sequence[Prediction]
    records: Sequence[Record]
    keys: tuple[str, ...]

    @cached_property
    def batch(self) -> ScoredBatch:
        """As the scorers take them."""
        return ScoredBatch(self.predictions, self.records, np.zeros((len(self.records), 0)))

    @cached_property
    def said(self) -> list[int | None]:
        """Which of the eight each names; None for none of them, or several."""
        named = [named_emotion(one.emotion) for one in self.predictions]
        alone = [_is_alone(one) for one in self.predictions]
        return [emotion.position if emotion is not None and one else None for emotion, one in zip(named, alone, strict=True)]

    @cached_property
    def decided(self) -> NDArray[np.bool_]:
        """(N,): whether each names one of the eight and no other, where it was asked for the emotion.

        A reply that does not is worth nothing, whatever else it says: else what is beside the emotion would pay for leaving it open.
        """
        asked = "emotion" in self.keys
        return np.array([said is not None or not asked for said in self.said], dtype=bool)


def _is_alone(prediction: Prediction) -> bool:
    """Whether the emotion that was read is the only one that stands in the reply: the scorer takes the last of several answers."""
    text = prediction.provenance.get("reply")
    values = values_said(text, "emotion") if isinstance(text, str) else []
    said = {value.strip().casefold() if isinstance(value, str) else None for value in values}
    return len(said) < 2


def right_emotion(answers: ReadReplies) -> Array:
    """(N,): 1 where the emotion is the annotated one."""
    return EmotionScores().amounts(answers.batch)[:, EmotionScores.names.index("folded")]


def near_emotion(answers: ReadReplies, distances: Array) -> Array:
    """(N,): 1 minus the expected distance of the emotion that is said from one drawn from the annotated distribution; 0 where none is said.

    Args:
        answers: see the class.
        distances: (8, 8) of `EmotionSpace`, at most 1.
    """
    found = np.zeros(len(answers.said))
    for n, (said, record) in enumerate(zip(answers.said, answers.records, strict=True)):
        annotated = record.emotion_distribution()
        if said is not None and annotated is not None:
            found[n] = 1 - float(np.asarray(annotated) @ distances[:, said])
    return found


def box_overlap(answers: ReadReplies) -> Array:
    """(N,): intersection over union with the annotated boxes, each matched at most once, those without a partner counting 0.

    An image without a box is worth 0 to every reply: none is better for it.
    """
    return BoxScores().amounts(answers.batch)[:, BoxScores.names.index("iou_strict")]


def near_intensity(answers: ReadReplies) -> Array:
    """(N,): 1 minus the difference of the intensities over ten; 0 where none is said or annotated."""
    return IntensityScores().amounts(answers.batch)[:, IntensityScores.names.index("closeness")]


def well_formed(answers: ReadReplies) -> Array:
    """(N,): 1 for one JSON object, nothing around it, of exactly the keys that were asked for, all of them readable."""
    return np.array([float(_is_well_formed(one, answers.keys)) for one in answers.predictions])


def _is_well_formed(prediction: Prediction, keys: tuple[str, ...]) -> bool:
    text = prediction.provenance.get("reply")
    if not isinstance(text, str) or prediction.provenance.get("problems"):
        return False
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return False
    # An object is a list of pairs here, so that a key that stands twice shows.
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        return False
    if sorted(key for key, _ in pairs) != sorted(keys):
        return False
    if "emotion" in keys and named_emotion(prediction.emotion) is None:
        return False
    if "intensity" in keys and not (prediction.intensity is not None and 1 <= prediction.intensity <= 10):
        return False
    return "words" not in keys or len(candidate_words(text)) == NUM_CANDIDATES


def candidate_words(text: str) -> list[str]:
    """The different words of a reply's key `words`, in their order, lower case; none where it cannot be read."""
    try:
        found = asked_values(json_values(text, "mark"), ("words",), "mark").get("words")
    except UnreadableReplyError:
        return []
    if found is AMBIGUOUS or not isinstance(found, list):
        return []
    return list(dict.fromkeys(word.strip().lower() for word in found if isinstance(word, str) and word.strip()))


def covered_fall(probability: float, covered: float, share: float) -> float:
    """How much the probability of an emotion falls when the box is covered, less for a larger box (DSPO's counterfactual reward).

    Args:
        probability: of the emotion, the whole image being seen.
        covered: of the same, the box being covered.
        share: of the image that is covered.
    """
    return (probability - covered) * (1 - share)


def divergence(answers: ReadReplies, lexicon: Lexicon, tau: float) -> Array:
    """(N,): candidate words that surround what is annotated and differ from each other (DSPO's divergence reward).

    exp(-D²/2τ²) · Σ_k (1 - exp(-Δ_k/τ)) / K. D is the distance of the candidates' mean from that of the annotated emotion's word and the
    words of the annotated description; Δ_k that of candidate k from the mean of the others. Both are Mahalanobis distances in the lexicon. The
    paper leaves open the weights, which are equal here, and τ.

    Args:
        answers: see the class.
        lexicon: valence, arousal and dominance of words.
        tau: of both terms.
    """
    found = np.zeros(len(answers.predictions))
    for n, (prediction, record) in enumerate(zip(answers.predictions, answers.records, strict=True)):
        reply = prediction.provenance.get("reply")
        points = lexicon.points(candidate_words(reply)[:NUM_CANDIDATES] if isinstance(reply, str) else [])
        spoken = [] if record.emotion is None else [str(record.emotion)]
        truth = lexicon.points([*spoken, *(word.strip(".,;:!?\"'") for word in (record.description or "").split())])
        if len(points) < 2 or not len(truth):
            continue
        far = lexicon.distance(points.mean(0), truth.mean(0))
        others = (points.sum(0) - points) / (len(points) - 1)
        apart = np.array([lexicon.distance(one, rest) for one, rest in zip(points, others, strict=True)])
        found[n] = np.exp(-(far**2) / (2 * tau**2)) * (1 - np.exp(-apart / tau)).sum() / NUM_CANDIDATES
    return found


def constant_label(truth: Array) -> float:
    """Accuracy of the best answer that is always the same.

    Args:
        truth: (8,), images by annotated emotion.
    """
    return float(truth.max() / max(1.0, truth.sum()))


def spread_of_labels(said: Array) -> float:
    """Entropy of the labels that are said, as a share of that of all eight alike: 0 where it is always the same one.

    Args:
        said: (8,), how often each is.
    """
    shares = said[said > 0] / max(1.0, said.sum())
    return float(-(shares * np.log(shares)).sum() / np.log(len(EMOTIONS)))
