"""What is fitted to a model on the feature stores that its DES head was trained on: where its training images lie, and its probe's calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.model_folders import check_made_of, write_made_of
from emo_lightning.core.terminal import say
from emo_lightning.inference.calibration import ProbeCalibration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from emo_lightning.data.features import FeatureCache
    from emo_lightning.models import DESHead, LinearProbes
    from emo_lightning.models.spread import Batches, Spread

MOST_IMAGES = 20_000
"""Of a store that are read: a mean and some axes need no more, and a store of a large data set has terabytes."""
_BATCH = 64


def fit_spread(train: Path, val: Path, num_layers: int, made_of: Mapping[str, str]) -> Spread:
    """Of a model's feature stores.

    Args:
        train: of the training images.
        val: of the validation images.
        num_layers: of the backbone's last, as the DES head reads them.
        made_of: what their features have to be of: `backbone`, by content hash, and `prompt`.

    Raises:
        FeatureError: a store is not whole, or was made of something else.
        InputError: too few validation images.
    """
    from emo_lightning.models.spread import Spread

    stores = [open_store(place, made_of) for place in (train, val)]
    known, held = (batches(store, num_layers)[1] for store in stores)
    return Spread.fit(stores[0].spec.hidden_size, num_layers, known, held)


def fit_calibration(head: DESHead, probe: LinearProbes, val: Path, made_of: Mapping[str, str]) -> ProbeCalibration | None:
    """Of a probe on validation images; None, and a line that says why, where their labels allow none.

    Args:
        head: whose embeddings the probe reads.
        probe: a grid of one.
        val: feature store of the validation images.
        made_of: as `fit_spread`, which see for the errors, too.
    """
    import torch

    from emo_lightning.core.records import NO_EMOTION
    from emo_lightning.metrics.calibration import TemperatureError

    store = open_store(val, made_of)
    rows, read = batches(store, head.num_layers)
    with torch.no_grad():
        predicted = torch.cat([probe(head(*batch))[0].double().softmax(-1) for batch in read()]).numpy()
    truth = store.columns.emotion.numpy()[rows]
    labelled = truth != NO_EMOTION
    if not labelled.any():
        say(f"the probe is not calibrated: no image of {val} has an emotion")
        return None
    try:
        return ProbeCalibration.fit(predicted[labelled], truth[labelled])
    except TemperatureError as error:
        say(f"the probe is not calibrated: {error}")
        return None


def open_store(place: Path, made_of: Mapping[str, str]) -> FeatureCache:
    """A store, if its features are what `explain` sees; arguments and errors as `fit_spread`."""
    from emo_lightning.data.features import FeatureCache

    store = FeatureCache(place)
    check_made_of(f"the feature store {place}", store.spec.made_of, {**made_of, "source": "prompt"})
    return store


def batches(store: FeatureCache, num_layers: int) -> tuple[NDArray[np.int64], Batches]:
    """At most `MOST_IMAGES` of a store, spread evenly over it: their rows, and what gives their hidden states."""
    import numpy as np

    from emo_lightning.data.feature_rows import FeatureRows
    from emo_lightning.data.sampler import Slots

    rows = np.unique(np.linspace(0, len(store) - 1, min(len(store), MOST_IMAGES)).round().astype(np.int64))

    def read() -> Iterable[tuple[Tensor, Tensor]]:
        data = FeatureRows(store)
        for start in range(0, len(rows), _BATCH):
            batch = data.collate(Slots(rows[start : start + _BATCH], 0))
            yield batch["hidden_states"][-num_layers:], batch["mask"]

    return rows, read


def scores_of(spread: Spread, store: FeatureCache) -> NDArray[np.float64]:
    """Of the images of a store, at most `MOST_IMAGES`: (N,)."""
    import torch

    return torch.cat([spread(*batch) for batch in batches(store, spread.num_layers)[1]()]).double().numpy()


def write_spread(folder: Path, spread: Spread, backbone: str, prompt: str) -> None:
    """Save it, with what it is of.

    Args:
        folder: of the part.
        spread: fitted.
        backbone: content hash.
        prompt: objective at which the hidden states are taken.
    """
    spread.save_pretrained(folder)
    write_made_of(folder, {"backbone": backbone, "prompt": prompt})
