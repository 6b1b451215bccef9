"""What was fitted to a probe's probabilities on validation images: `calibration.json` beside the probe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, get_args

import numpy as np

from emo_lightning.core.emotions import EMOTIONS, Emotion
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_object, write_json
from emo_lightning.inference.results import Probed, by_emotion
from emo_lightning.metrics.calibration import at_temperature
from emo_lightning.metrics.conformal import Conformal, Score

CALIBRATION_FILE = "calibration.json"


class CalibrationFile(TypedDict):
    """The keys of the file."""

    images: int
    temperature: float
    score: Score
    alpha: float
    threshold: float | None
    """None: infinite, every set is the whole."""


@dataclass(frozen=True)
class ProbeCalibration:
    """Temperature and conformal threshold of a probe.

    Args:
        temperature: above 0; logarithms of probabilities are divided by it.
        conformal: fitted on the probabilities as they are, before the temperature.
    """

    temperature: float
    conformal: Conformal

    @classmethod
    def read(cls, probe: Path) -> ProbeCalibration | None:
        """Of a probe's folder; None where nothing was fitted.

        Raises:
            InputError: it holds something else; names the key.
        """
        path = probe / CALIBRATION_FILE
        if not path.is_file():
            return None
        found = read_object(path)

        def number(key: str, least: float, most: float) -> float:
            value = found.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                msg = f"{path}: key {key!r}: found {value!r}; expected a number from {least:g} to {most:g}"
                raise InputError(msg)
            return float(value)

        if found.get("score") not in get_args(Score):
            msg = f"{path}: key 'score': found {found.get('score')!r}; allowed: {', '.join(get_args(Score))}"
            raise InputError(msg)
        threshold = math.inf if found.get("threshold", 0) is None else number("threshold", 0, 1)
        conformal = Conformal(found["score"], number("alpha", 0, 1), threshold, int(number("images", 1, 1e12)))
        return cls(number("temperature", 1e-6, 1e6), conformal)

    def write(self, probe: Path) -> None:
        """Into a probe's folder."""
        infinite = math.isinf(self.conformal.threshold)
        said: CalibrationFile = {
            "images": self.conformal.images,
            "temperature": self.temperature,
            "score": self.conformal.score,
            "alpha": self.conformal.alpha,
            "threshold": None if infinite else self.conformal.threshold,
        }
        write_json(probe / CALIBRATION_FILE, said)


def probed(probabilities: list[float], fitted: ProbeCalibration | None) -> Probed:
    """What a probe says of one image.

    Args:
        probabilities: eight, as the probe gives them, in the order of `EMOTIONS`.
        fitted: None: they are taken as they are.
    """
    if fitted is None:
        return Probed(by_emotion(probabilities), calibrated=False)
    rows = np.asarray([probabilities], dtype=float)
    members: list[Emotion] = [e for e, inside in zip(EMOTIONS, fitted.conformal.sets(rows)[0], strict=True) if inside]
    ranked = sorted(members, key=lambda emotion: -probabilities[emotion.position])
    scaled = [float(p) for p in at_temperature(rows, fitted.temperature)[0]]
    return Probed(by_emotion(scaled), calibrated=True, conformal=tuple(ranked), coverage=1 - fitted.conformal.alpha)
