"""What the thread that owns the model does with a batch: one call of `EmotionModel` for all pictures that ask the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from emo_lightning.data.chat import objective
from emo_lightning.inference.calibration import probed
from emo_lightning.inference.results import Explanation, Probed, Unlike

if TYPE_CHECKING:
    from PIL.Image import Image

    from emo_lightning.inference.explaining import OnPartial
    from emo_lightning.inference.model import EmotionModel, Masks


@dataclass(frozen=True)
class Asked:
    """One picture, and what is wanted of it."""

    picture: Image
    """Upright, RGB."""
    name: str = "image"
    """The id of what is said of it."""
    max_new_tokens: int | None = None
    """Of one answer; None where its embedding alone is wanted."""
    on_partial: OnPartial | None = None
    """Told what is known while the answers are written; see `EmotionModel.explain`."""


@dataclass(frozen=True)
class Tokens:
    """What a picture has cost."""

    prompt: int
    """Read: the picture once, and every question."""
    completion: int = 0
    """Written, in all answers."""
    cut: bool = False
    """Whether an answer has ended at the limit."""


@dataclass(frozen=True)
class Found:
    """What the model gives for one picture."""

    des: NDArray[np.float32]
    """(des_dim,)."""
    probe: Probed | None
    """The emotion as the probe reads it off the embedding."""
    unlike: Unlike | None
    """How far the picture is from what the model was trained on, where that is known."""
    explanation: Explanation | None
    """Where words were asked for; of the same reading of the picture."""
    tokens: Tokens


class Looking:
    """The work of a `Batcher`.

    Args:
        model: loaded.
        masks: see `EmotionModel.explain`.
    """

    def __init__(self, model: EmotionModel, masks: Masks | None = None) -> None:
        self._model, self._masks = model, masks

    def __call__(self, asked: Sequence[Asked]) -> list[Found]:
        """One result for each, in their order."""
        groups: dict[int | None, list[int]] = {}
        for place, one in enumerate(asked):
            groups.setdefault(one.max_new_tokens, []).append(place)
        found: dict[int, Found] = {}
        for limit, places in groups.items():
            group = [asked[place] for place in places]
            results = self._embedded(group) if limit is None else self._explained(group, limit)
            found |= dict(zip(places, results, strict=True))
        return [found[place] for place in range(len(asked))]

    def _embedded(self, asked: Sequence[Asked]) -> list[Found]:
        seen = self._model.seen_at_once([one.picture for one in asked])
        probabilities = self._model.distribution(torch.from_numpy(np.stack([des for des, _ in seen])))
        rows = [None] * len(asked) if probabilities is None else probabilities.double().tolist()
        questions, found = [self._model.bundle.features], []
        for one, (des, unlike), row in zip(asked, seen, rows, strict=True):
            far = unlike is not None and unlike.is_unlike
            probe = None if row is None else probed(row, self._model.calibration, unlike=far)
            found.append(Found(des, probe, unlike, None, Tokens(self._read(one, questions))))
        return found

    def _explained(self, asked: Sequence[Asked], limit: int) -> list[Found]:
        pictures, names = [one.picture for one in asked], [one.name for one in asked]
        explained = self._model.explain(
            pictures,
            names,
            max_new_tokens=limit,
            batch_size=len(asked),
            masks=self._masks,
            on_partial={n: one.on_partial for n, one in enumerate(asked) if one.on_partial is not None},
        )
        return [
            Found(said.des, said.probe, said.unlike, said, self._tokens(one, said, limit))
            for one, said in zip(asked, explained, strict=True)
        ]

    def _read(self, asked: Asked, questions: Sequence[str]) -> int:
        """Tokens that are read of a picture and of these questions about it, the picture once where they stand in one row."""
        collate = self._model.collate
        resized = collate.family.resized_size(collate.processor, asked.picture.size)
        picture = collate.family.image_tokens(collate.processor, resized)
        # Without the answer's end, which `length` counts.
        lengths = [collate.length(objective(name).keys, picture, 0) - 1 for name in questions]
        again = collate.shared_length(picture) if collate.packed else 0
        return sum(lengths) - again * (len(questions) - 1)

    def _tokens(self, asked: Asked, said: Explanation, limit: int) -> Tokens:
        replies = said.prediction.provenance["replies"]
        assert isinstance(replies, list)
        tokenizer = self._model.collate.tokenizer
        written = [len(tokenizer(reply["reply"], add_special_tokens=False)["input_ids"]) for reply in replies]
        return Tokens(self._read(asked, self._model.bundle.questions), sum(written), max(written) >= limit)
