"""What is fitted to a model on pictures of its data: where its training pictures lie, and its probe's calibration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say
from emo_lightning.inference.calibration import ProbeCalibration
from emo_lightning.inference.inputs import InputImage, entries
from emo_lightning.inference.many import name_failures, opened_batches

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.models.spread import SeenPictures, TrainingSpread

MAX_FITTED_IMAGES = 2000
"""Of a set that are looked at: a mean, some axes and a threshold need no more."""
_BATCH = 32


class Fitted(NamedTuple):
    """Of one model; None where nothing could be fitted, which has been said."""

    spread: TrainingSpread | None
    calibration: ProbeCalibration | None


def fit(model: EmotionModel, train: Sequence[str], val: Sequence[str]) -> Fitted:
    """Look at pictures of the training and of the validation set, through all that `explain` looks through.

    Args:
        model: loaded.
        train: tars.
        val: tars of images that nothing was trained on.

    Raises:
        FamilyError: the backbone is of a family whose patches are not told apart.
        InputError: the tars cannot be read.
    """
    from emo_lightning.models.spread import TooFewImagesError, TrainingSpread

    des: dict[str, Tensor] = {}

    def held_out() -> Iterator[SeenPictures]:
        for names, seen in _looked(model, _some(val)):
            des.update(zip(names, seen.des.float().cpu(), strict=True))
            yield seen

    spread = None
    try:
        spread = TrainingSpread.fit((seen for _, seen in _looked(model, _some(train))), held_out())
    except TooFewImagesError as error:
        say(f"which pictures are unlike those of the training will not be known: {error}")
    return Fitted(spread, _calibrated(model, val, des))


def _calibrated(model: EmotionModel, val: Sequence[str], des: dict[str, Tensor]) -> ProbeCalibration | None:
    import torch

    from emo_lightning.data.tar_index import TarIndex
    from emo_lightning.metrics.calibration import TemperatureError

    # Their records alone are read: what is in `des` had a picture.
    index = TarIndex.open(list(val), bad_images=True)
    rows = {index.id(row): row for row in range(len(index))}
    labels = {name: record.emotion for name in des if (record := index.record(rows[name])).emotion is not None}
    predicted = model.distribution(torch.stack([des[name] for name in labels])) if labels else None
    if predicted is None:
        if model.probe is not None:
            say("the probe is not calibrated: no validation image has an emotion")
        return None
    truth = np.array([emotion.position for emotion in labels.values() if emotion is not None])
    try:
        return ProbeCalibration.fit(predicted.double().numpy(), truth)
    except TemperatureError as error:
        say(f"the probe is not calibrated: {error}")
        return None


def distances(model: EmotionModel, inputs: Sequence[str]) -> NDArray[np.float64]:
    """Of pictures from the training pictures, (N,), at most `MAX_FITTED_IMAGES`; those that cannot be opened are named and left out.

    Args:
        model: that has a spread.
        inputs: see `inference.inputs.entries`.

    Raises:
        InputError: none of them can be opened.
    """
    if model.spread is None:
        msg = f"{model.folder}: does not know its training pictures"
        raise InputError(msg)
    found = [score for _, seen in _looked(model, _some(inputs)) for score in model.spread(seen).tolist()]
    if not found:
        msg = f"{' '.join(inputs)[:200]}: none of the pictures can be opened"
        raise InputError(msg)
    return np.asarray(found)


def _some(inputs: Sequence[str]) -> list[InputImage]:
    """In an order of no meaning, the same every time."""
    found = entries(inputs)
    return [found[n] for n in np.random.default_rng(0).permutation(len(found))[:MAX_FITTED_IMAGES]]


def _looked(model: EmotionModel, chosen: Sequence[InputImage]) -> Iterator[tuple[list[str], SeenPictures]]:
    from emo_lightning.models.sound import naming

    failures: dict[str, str] = {}
    for batch in opened_batches(chosen, _BATCH):
        failures |= batch.failures
        if batch.pictures:
            ids = [entry.id for entry in batch.entries]
            with naming(ids):
                seen = model.look(batch.pictures)
            yield ids, seen
    name_failures(failures)
