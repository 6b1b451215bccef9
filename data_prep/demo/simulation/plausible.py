"""Answers about photographs of which nothing is known: made up from their brightness, colours and the place where most happens."""

from __future__ import annotations

import hashlib
import random

import numpy as np

from data_prep.demo.simulation.config import SimulatedModel, SimulationConfig
from data_prep.demo.simulation.replies import SHOWN_ANNOTATION, Simulation
from data_prep.store.rows import Item
from emo_lightning.core.images import open_image, to_rgb
from emo_lightning.core.records import EMOTIONS, Emotion, GroundedObject, Record, intensity_level

SIMULATED_ANNOTATOR = SimulatedModel(
    role="full", emotion_error=0.2, word_error=0.05, description_error=0.04, intensity_noise=0.8
)
SIMULATED_VOTER = SimulatedModel(role="emotion", emotion_error=0.12)
SIMULATED_CRITIC = SimulatedModel(
    role="critic",
    recall={"emotion": 0.9, "description": 0.97, "triplet": 0.86, "intensity": 0.46, "box": 0.78},
    false_alarm={"emotion": 0.01, "description": 0.03, "triplet": 0.04, "intensity": 0.05, "box": 0.14},
    emotion_error=0.1,
    discard=0.5,
)
"""Error rates near those that the paper's Table 3 implies, as in configs/prep/world.yaml."""

_SIDE = 48
_HUES = ("red", "orange", "yellow", "green", "green", "cyan", "blue", "blue", "purple", "pink")
_LEANINGS: dict[tuple[bool, bool], tuple[Emotion, ...]] = {
    (True, True): (Emotion.AMUSEMENT, Emotion.EXCITEMENT, Emotion.AWE),
    (True, False): (Emotion.CONTENTMENT, Emotion.AWE),
    (False, True): (Emotion.ANGER, Emotion.FEAR, Emotion.EXCITEMENT),
    (False, False): (Emotion.SADNESS, Emotion.FEAR, Emotion.DISGUST),
}
"""(bright, colourful) -> the emotions that are named most often."""


def plausible_truth(item: Item, image: bytes) -> Record:
    """What a rehearsal takes for true of a photograph.

    Args:
        item: of the store.
        image: its bytes as they are sent.

    Raises:
        InputError: it does not decode.
    """
    small = to_rgb(open_image(image, item.id, reduced=4 * _SIDE, upright=True)).resize((_SIDE, _SIDE))
    hue, saturation, value = (np.asarray(small.convert("HSV"), dtype=float)[..., band] / 255 for band in range(3))
    rng = random.Random(hashlib.sha256(image).hexdigest())
    bright, colourful = bool(value.mean() > 0.45), bool(saturation.mean() > 0.3)
    emotion = rng.choices(_LEANINGS[bright, colourful] + EMOTIONS, [4.0] * len(_LEANINGS[bright, colourful]) + [0.3] * 8)[0]
    share = rng.uniform(0.55, 0.9)
    scores = {one: round(share if one is emotion else (1 - share) / 7, 6) for one in EMOTIONS}
    intensity = min(10, max(1, round(3 + 6 * float(saturation.mean()) + rng.gauss(0, 1.2))))
    row, column = _busiest(value)
    colour = _HUES[int(np.median(hue) * (len(_HUES) - 1))] if colourful else "grey"
    background = f"{'bright' if bright else 'dark'} {colour} scene"
    attribute = "standing out" if float(value.std()) > 0.2 else "blending in"
    subject = f"{('upper', 'middle', 'lower')[row]} {('left', 'centre', 'right')[column]} part"
    box = _box(row, column, item.width, item.height)
    return Record(
        id=item.id,
        source=item.source,
        width=item.width,
        height=item.height,
        sha256=hashlib.sha256(image).hexdigest(),
        split=item.split or "",
        description=f"(rehearsal) the {subject} of a {background} is {attribute}, and evokes {emotion}.",
        background=background,
        attribute=attribute,
        subject=subject,
        emotion=emotion,
        emotion_scores=scores,
        confidence=round(share, 2),
        intensity=intensity,
        intensity_level=intensity_level(intensity),
        objects=[GroundedObject(phrase=f"{attribute} {subject}", bbox=box, score=1.0, primary=True)],
        provenance={"neutral_description": f"(rehearsal) a {background}; its {subject} is {attribute}."},
    )


def _busiest(value: np.ndarray) -> tuple[int, int]:
    """(row, column) of the ninth of the picture whose brightness varies most."""
    third = _SIDE // 3
    spread = value.reshape(3, third, 3, third).std(axis=(1, 3))
    row, column = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(row), int(column)


def _box(row: int, column: int, width: int, height: int) -> tuple[float, float, float, float]:
    def span(at: int, length: int) -> tuple[float, float]:
        return max(0.0, round((at - 0.25) * length / 3, 1)), min(float(length), round((at + 1.25) * length / 3, 1))

    (x1, x2), (y1, y2) = span(column, width), span(row, height)
    return x1, y1, x2, y2


class Rehearsal(Simulation):
    """Answers as the models of any pass might.

    Args:
        truth: what is taken for true (`plausible_truth`).
        full: models that annotate; one of them may criticise as well.
        voters: models that only vote.
        critic: who criticises.
    """

    def __init__(self, truth: list[Record], full: set[str], voters: set[str], critic: str) -> None:
        models = dict.fromkeys(voters, SIMULATED_VOTER) | {critic: SIMULATED_CRITIC} | dict.fromkeys(full, SIMULATED_ANNOTATOR)
        super().__init__(truth, SimulationConfig(models=models))

    def asked(self, name: str, prompt: str) -> SimulatedModel:
        """By what it is asked: one model may annotate and criticise."""
        return SIMULATED_CRITIC if SHOWN_ANNOTATION.search(prompt) or "Box, in shares of" in prompt else self.model(name)
