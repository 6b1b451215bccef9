"""Interpretable visual emotion analysis: train, embed, explain, evaluate.

The command line `emo` runs whole experiments; these names are for code of your own. Each is imported when it is first asked for, so
`import emo_lightning` costs nothing and needs no torch.

| name | is |
|---|---|
| `Record` | one annotated image: triplet, emotion, intensity, grounded regions |
| `Triplet`, `GroundedObject`, `Emotion`, `EMOTIONS` | the parts of a record |
| `Prediction` | what a model said of one image |
| `read_jsonl`, `write_jsonl` | records or predictions of a JSON-lines file |
| `TarIndex` | the images and records of exported tars, by row |
| `EmotionModel` | a trained model from its folder or the hub: embeddings, distributions, explanations |
| `Explanation`, `Said`, `Probed`, `Region`, `Unlike` | what it says of one image: words, probe, places; how far it is from the training |
| `SearchIndex`, `Filters`, `Hit` | a place to search images by their embeddings |
| `DESHead`, `LinearProbes` | the two small networks on top of a backbone, to train or to load alone |
| `UserError` | base of every error that a user can mend: a file, a key, a value |

Examples:
    >>> from emo_lightning import Emotion, Triplet
    >>> str(Triplet(background="beach", attribute="golden", subject="dog"))
    'beach - golden - dog'
    >>> Emotion.parse(" Awe ").position
    1
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emo_lightning.core.errors import UserError
    from emo_lightning.core.records import (
        EMOTIONS,
        Emotion,
        GroundedObject,
        Prediction,
        Record,
        Triplet,
        read_jsonl,
        write_jsonl,
    )
    from emo_lightning.data.tar_index import TarIndex
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.inference.results import Explanation, Probed, Region, Said, Unlike
    from emo_lightning.models import DESHead, LinearProbes
    from emo_lightning.search.filters import Filters
    from emo_lightning.search.hits import Hit
    from emo_lightning.search.index import SearchIndex

    __version__: str

__all__ = [
    "EMOTIONS",
    "DESHead",
    "Emotion",
    "EmotionModel",
    "Explanation",
    "Filters",
    "GroundedObject",
    "Hit",
    "LinearProbes",
    "Prediction",
    "Probed",
    "Record",
    "Region",
    "Said",
    "SearchIndex",
    "TarIndex",
    "Triplet",
    "Unlike",
    "UserError",
    "__version__",
    "read_jsonl",
    "write_jsonl",
]

_MODULES = {
    "UserError": "core.errors",
    **dict.fromkeys(
        ("EMOTIONS", "Emotion", "GroundedObject", "Prediction", "Record", "Triplet", "read_jsonl", "write_jsonl"),
        "core.records",
    ),
    "TarIndex": "data.tar_index",
    "EmotionModel": "inference.model",
    **dict.fromkeys(("Explanation", "Probed", "Region", "Said", "Unlike"), "inference.results"),
    "DESHead": "models",
    "LinearProbes": "models",
    "Filters": "search.filters",
    "Hit": "search.hits",
    "SearchIndex": "search.index",
}
"""Public name -> the module below this package that defines it."""


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    value: object
    if name == "__version__":
        from importlib.metadata import version

        value = version("emo-lightning")
    elif name in _MODULES:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    else:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
