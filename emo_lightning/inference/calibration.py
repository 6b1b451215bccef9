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
from emo_lightning.metrics.arrays import Array, Classes
from emo_lightning.metrics.calibration import at_temperature, fit_temperature
from emo_lightning.metrics.conformal import Conformal, ConformalScore

CALIBRATION_FILE = "calibration.json"


class CalibrationFile(TypedDict):
    """The keys of the file."""

    images: int
    temperature: float
    score: ConformalScore
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
    def fit(cls, predicted: Array, truth: Classes, alpha: float = 0.1, score: ConformalScore = "lac") -> ProbeCalibration:
        """On images that neither the backbone nor its head nor the probe was trained on.

        Args:
            predicted: (N, 8), rows sum to 1.
            truth: (N,) class indices.
            alpha: share of conformal sets that may miss.
            score: kind of conformal score.

        Raises:
            TemperatureError: all images are of one emotion.
            ValueError: no image.
        """
        return cls(fit_temperature(predicted, truth), Conformal.fit(predicted, truth, alpha, score))

    @classmethod
    def of(cls, model: Path, probe: str | None) -> ProbeCalibration | None:
        """Of a model's probe: beside its `emo.json`, as the `bundle` stage writes it, or beside the probe, as `emo export` does.

        Raises:
            InputError: as `read`.
        """
        return None if probe is None else cls.read(model) or cls.read(Path(probe))

    @classmethod
    def read(cls, folder: Path) -> ProbeCalibration | None:
        """Of a folder; None where nothing was fitted.

        Raises:
            InputError: it holds something else; names the key.
        """
        path = folder / CALIBRATION_FILE
        if not path.is_file():
            return None
        found = read_object(path)

        def number(key: str, least: float, most: float) -> float:
            value = found.get(key)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
                msg = f"{path}: key {key!r}: found {value!r}; expected a number from {least:g} to {most:g}"
                raise InputError(msg)
            return float(value)

        if found.get("score") not in get_args(ConformalScore):
            msg = f"{path}: key 'score': found {found.get('score')!r}; allowed: {', '.join(get_args(ConformalScore))}"
            raise InputError(msg)
        threshold = math.inf if found.get("threshold", 0) is None else number("threshold", 0, 1)
        conformal = Conformal(found["score"], number("alpha", 0, 1), threshold, int(number("images", 1, 1e12)))
        return cls(number("temperature", 1e-6, 1e6), conformal)

    def write(self, folder: Path) -> None:
        """Into a folder."""
        infinite = math.isinf(self.conformal.threshold)
        said: CalibrationFile = {
            "images": self.conformal.images,
            "temperature": self.temperature,
            "score": self.conformal.score,
            "alpha": self.conformal.alpha,
            "threshold": None if infinite else self.conformal.threshold,
        }
        write_json(folder / CALIBRATION_FILE, said)


def probed(probabilities: list[float], fitted: ProbeCalibration | None, *, unlike: bool = False) -> Probed:
    """What a probe says of one image.

    What was fitted holds for images that are exchangeable with those of the validation set, and for no others. Of an image that is unlike
    them the set is all eight emotions, the only one whose coverage asks for no such image, and the probabilities count as not calibrated.
    Sets only grow by that, so that their coverage of images like the validation set's stays what it was.

    Args:
        probabilities: eight, as the probe gives them, in the order of `EMOTIONS`.
        fitted: None: they are taken as they are.
        unlike: whether the image is unlike what the model was trained on.
    """
    if fitted is None:
        return Probed(by_emotion(probabilities), calibrated=False)
    rows = np.asarray([probabilities], dtype=float)
    inside = fitted.conformal.sets(rows)[0] | unlike
    members: list[Emotion] = [e for e, member in zip(EMOTIONS, inside, strict=True) if member]
    ranked = sorted(members, key=lambda emotion: -probabilities[emotion.position])
    scaled = [float(p) for p in at_temperature(rows, fitted.temperature)[0]]
    coverage = 1.0 if unlike else 1 - fitted.conformal.alpha
    return Probed(by_emotion(scaled), calibrated=not unlike, conformal=tuple(ranked), coverage=coverage)
