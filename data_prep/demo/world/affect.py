"""The rule by which emotion and intensity follow from the combination of background, attribute and subject.

Each image has a latent (pleasure, arousal, dominance) in the sense of Mehrabian's PAD temperament model (1996). The background
shifts all three; the attribute shifts them too, but the subject decides what the attribute *means*: a threatening subject turns
its pleasure around (a smiling spider is no friend), a lively one amplifies its arousal, and each subject brings a dominance
of its own. The octant of the latent is the emotion:

    pleasure  = bg.pleasure + subject.sign * attribute.pleasure
    arousal   = bg.arousal  + subject.gain * attribute.arousal
    dominance = bg.dominance + attribute.dominance + subject.dominance

With all 512 triplets equally frequent every emotion has a share of 10.4–14.8 %. The best lookup (majority emotion, exact over
the 512) from one factor is right for 35.5 % (background), 34.2 % (attribute), 20.1 % (subject); from two factors for 57.0 %
(background + attribute), 39.3 % (background + subject), 52.3 % (attribute + subject). A test computes them.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass
from functools import cache

from emo_lightning.core.records import EMOTIONS, Emotion

TEMPERATURE = 0.45
"""Of the softmax over squared distances to the prototypes: lower is crisper."""

PROTOTYPE_RADIUS = 0.6
"""Distance of a prototype from zero along each of the three axes."""

HELD_OUT_SHARE = 0.2
"""Share of the 512 triplets that training never sees."""

Latent = tuple[float, float, float]
"""(pleasure, arousal, dominance)."""

TripletKey = tuple[str, str, str]
"""(background, attribute, subject)."""


@dataclass(frozen=True)
class SubjectEffect:
    """How a subject modulates the attribute."""

    sign: float
    """Multiplies the attribute's pleasure; negative = threatening."""
    gain: float
    """Multiplies the attribute's arousal."""
    dominance: float
    """Added to the dominance."""


BACKGROUND_EFFECTS: dict[str, Latent] = {
    "beach": (0.70, -0.25, 0.10),
    "forest": (0.05, -0.50, -0.30),
    "city": (-0.15, 0.65, 0.60),
    "desert": (-0.05, -0.45, 0.25),
    "mountain": (0.35, 0.40, -0.90),
    "graveyard": (-0.80, -0.20, -0.45),
    "room": (0.10, -0.20, 0.45),
    "stormy sea": (-0.30, 0.70, -0.55),
}

ATTRIBUTE_EFFECTS: dict[str, Latent] = {
    "smiling": (0.90, -0.05, 0.40),
    "crying": (-1.05, -0.10, -0.55),
    "scowling": (-0.60, 0.75, 0.90),
    "sleeping": (0.40, -0.85, -0.30),
    "jumping": (0.45, 0.95, 0.25),
    "drenched": (-0.35, -0.05, -0.40),
    "faded": (-0.35, -0.75, 0.50),
    "glowing": (0.25, 0.35, -0.60),
}

SUBJECT_EFFECTS: dict[str, SubjectEffect] = {
    "dog": SubjectEffect(0.90, 1.25, 0.37),
    "cat": SubjectEffect(0.90, 0.90, 0.52),
    "bird": SubjectEffect(0.50, 1.15, -0.32),
    "fish": SubjectEffect(0.65, 0.45, -0.47),
    "child": SubjectEffect(0.90, 1.25, -0.52),
    "robot": SubjectEffect(-0.45, 1.10, 0.57),
    "ghost": SubjectEffect(-1.05, 1.15, -0.28),
    "spider": SubjectEffect(-1.15, 0.95, 0.22),
}

WORLD_BACKGROUNDS = tuple(BACKGROUND_EFFECTS)
WORLD_ATTRIBUTES = tuple(ATTRIBUTE_EFFECTS)
WORLD_SUBJECTS = tuple(SUBJECT_EFFECTS)

OCTANTS: dict[Emotion, tuple[int, int, int]] = {
    Emotion.AMUSEMENT: (1, -1, 1),
    Emotion.AWE: (1, 1, -1),
    Emotion.CONTENTMENT: (1, -1, -1),
    Emotion.EXCITEMENT: (1, 1, 1),
    Emotion.ANGER: (-1, 1, 1),
    Emotion.DISGUST: (-1, -1, 1),
    Emotion.FEAR: (-1, 1, -1),
    Emotion.SADNESS: (-1, -1, -1),
}
"""Signs of (pleasure, arousal, dominance) of each prototype, after Mehrabian's octants (exuberant, hostile, anxious, …)."""


@dataclass(frozen=True)
class Affect:
    """What a triplet evokes, without noise."""

    latent: Latent
    emotion: Emotion
    scores: dict[Emotion, float]
    """Soft truth: distribution over the eight, in the order of `EMOTIONS`."""
    intensity: int
    """1–10."""

    @property
    def confidence(self) -> float:
        """Probability of the emotion named (0–1)."""
        return self.scores[self.emotion]


def all_triplets() -> list[TripletKey]:
    """The 512 combinations, in a fixed order."""
    return list(itertools.product(WORLD_BACKGROUNDS, WORLD_ATTRIBUTES, WORLD_SUBJECTS))


def latent(background: str, attribute: str, subject: str) -> Latent:
    """(pleasure, arousal, dominance) of a triplet; the module's docstring holds the formula.

    Raises:
        ValueError: a value the world does not have.
    """
    for name, value, allowed in (
        ("background", background, WORLD_BACKGROUNDS),
        ("attribute", attribute, WORLD_ATTRIBUTES),
        ("subject", subject, WORLD_SUBJECTS),
    ):
        if value not in allowed:
            msg = f"world has no {name} {value!r}; allowed: {', '.join(allowed)}"
            raise ValueError(msg)
    b, a, s = BACKGROUND_EFFECTS[background], ATTRIBUTE_EFFECTS[attribute], SUBJECT_EFFECTS[subject]
    return (round(b[0] + s.sign * a[0], 6), round(b[1] + s.gain * a[1], 6), round(b[2] + a[2] + s.dominance, 6))


@cache
def affect(background: str, attribute: str, subject: str) -> Affect:
    """Emotion, soft truth and intensity of a triplet.

    The scores are a softmax over negative squared distances to the eight prototypes. The intensity grows with the distance
    of the latent from neutral and with its arousal.
    """
    z = latent(background, attribute, subject)
    logits = [
        -sum((x - PROTOTYPE_RADIUS * sign) ** 2 for x, sign in zip(z, OCTANTS[e], strict=True)) / TEMPERATURE for e in EMOTIONS
    ]
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    scores = {e: w / sum(weights) for e, w in zip(EMOTIONS, weights, strict=True)}
    emotion = max(EMOTIONS, key=lambda e: scores[e])
    raw = 0.5 + 4.4 * math.dist(z, (0, 0, 0)) + 1.4 * z[1]
    return Affect(z, emotion, scores, max(1, min(10, round(raw))))


def noisy_label(truth: Affect, noise: float, rng: random.Random) -> Emotion:
    """A human's label: the true emotion, or with probability `noise` one of the others, drawn by their soft truth."""
    if rng.random() >= noise:
        return truth.emotion
    others = [e for e in EMOTIONS if e is not truth.emotion]
    return rng.choices(others, weights=[truth.scores[e] for e in others])[0]


@cache
def held_out(seed: int) -> frozenset[TripletKey]:
    """A fifth of the triplets, for the split "heldout".

    Every pair of values keeps at least five of its eight triplets in training.
    """
    triplets = all_triplets()
    random.Random(f"world/heldout/{seed}").shuffle(triplets)
    wanted = round(HELD_OUT_SHARE * len(triplets))
    taken: set[TripletKey] = set()
    per_pair: Counter[tuple[str, str]] = Counter()
    for b, a, s in triplets:
        # The names of the three factors differ, so a pair of names says which two factors are meant.
        pairs = [(b, a), (b, s), (a, s)]
        if len(taken) < wanted and all(per_pair[p] < 3 for p in pairs):
            taken.add((b, a, s))
            per_pair.update(pairs)
    return frozenset(taken)
