"""Rows of an index from pictures: through a model, or with the embeddings that their tars have of the same model."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import read_object
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.stores import is_remote
from emo_lightning.core.terminal import say
from emo_lightning.inference.embed import EMBEDDING_FILE
from emo_lightning.inference.inputs import InputImage
from emo_lightning.inference.many import ImageFunction, Looked, look_at_all
from emo_lightning.search.rows import NewRow, thumbnail_of
from emo_lightning.search.writer import IndexWriter

if TYPE_CHECKING:
    from emo_lightning.inference.model import EmotionModel

Loader = Callable[[], "EmotionModel"]
"""Loads the model, once it is needed."""


def add_pictures(
    writer: IndexWriter, found: Sequence[InputImage], load: Loader | None, batch_size: int, *, thumbnails: bool = True
) -> Looked:
    """Every picture that the index does not have yet.

    Args:
        writer: of the index, whose `left_out` gets what cannot be opened.
        found: the pictures.
        load: the model of the index; None where every one has an embedding in its tar.
        batch_size: pictures at a time.
        thumbnails: whether small pictures of them are kept.

    Raises:
        InputError: a picture has no embedding, and there is no model; or none can be opened.
    """
    weights = writer.weights
    stored = {file: stored_weights(file) for file in {entry.file for entry in found if entry.des is not None}}

    def embedding(entry: InputImage) -> NDArray[np.float32] | None:
        # Embeddings of nobody knows whom are taken where no model is named to make others.
        usable = entry.des is not None and (load is None or stored[entry.file] == weights)
        return entry.des() if entry.des is not None and usable else None

    looked = look_at_all(found, writer, lambda: _work(embedding, load, thumbnails), batch_size, "index")
    writer.left_out |= looked.failures
    return looked


def stored_weights(tar: str) -> str | None:
    """Which model's embeddings a tar holds, as `emo embed` notes it beside its tars; None where nobody says."""
    note = Path(tar).parent / EMBEDDING_FILE
    if is_remote(tar) or not note.is_file():
        return None
    try:
        said = read_object(note).get("weights")
    except UserError as error:
        say(f"{note}: cannot be read, so the embeddings beside it count as nobody's: {error}", file=sys.stderr)
        return None
    return said if isinstance(said, str) else None


def _work(
    embedding: Callable[[InputImage], NDArray[np.float32] | None], load: Loader | None, thumbnails: bool
) -> ImageFunction[NewRow]:
    held: list[EmotionModel] = []

    def model(entry: InputImage) -> EmotionModel:
        if load is None:
            msg = f"{entry.file}: {entry.id!r} has no embedding there; --model FOLDER computes them"
            raise InputError(msg)
        if not held:
            held.append(load())
        return held[0]

    def work(entries: Sequence[InputImage], pictures: Sequence[Image.Image]) -> list[NewRow]:
        given = [embedding(entry) for entry in entries]
        missing = [n for n, one in enumerate(given) if one is None]
        if missing:
            net = model(entries[missing[0]])
            computed = net.embed([pictures[n] for n in missing], len(missing)).numpy()
            for n, row in zip(missing, computed, strict=True):
                given[n] = row
        vectors = [one for one in given if one is not None]
        probed = probes(held[0] if held else None, vectors)
        return [
            NewRow(
                entry.id,
                entry.stamp,
                entry.file,
                entry.member,
                None if entry.record is None else entry.record(),
                des,
                said,
                thumbnail_of(picture) if thumbnails else None,
            )
            for entry, picture, des, said in zip(entries, pictures, vectors, probed, strict=True)
        ]

    return work


def probes(model: EmotionModel | None, vectors: Sequence[NDArray[np.float32]]) -> list[tuple[str, float] | None]:
    """What a model's probe says of some embeddings; None without one."""
    if model is None or model.probe is None or not vectors:
        return [None] * len(vectors)
    import torch

    from emo_lightning.inference.calibration import probed

    distributions = model.distribution(torch.from_numpy(np.stack(vectors)))
    assert distributions is not None
    found = [probed(row.double().tolist(), model.calibration) for row in distributions]
    assert len(EMOTIONS) == distributions.shape[1]
    return [(str(one.emotion), one.confidence) for one in found]
