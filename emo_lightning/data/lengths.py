"""How many tokens each sample will have, from its record alone: no picture is opened.

Answers are tokenised once: the counts are kept in the user's cache folder (`lengths/`), under a name made of all that decides them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.arrays import read_npz
from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import write_npz
from emo_lightning.data.chat import Objective, target_answer
from emo_lightning.data.collate import Collator
from emo_lightning.data.tar_index import TarIndex

_AT_ONCE = 1024
_VERSION = 2
"""Of how a sample is made of a record, and of what a name is made of; another one counts anew."""

_NAMED = 3
"""Samples that a message names."""

log = logging.getLogger(__name__)


def shared_lengths(index: TarIndex, collate: Collator) -> NDArray[np.int64]:
    """Tokens of each sample up to the end of its picture, (N,)."""
    return _of_pictures(index, collate, collate.shared_length)


def question_lengths(index: TarIndex, asked: Iterable[tuple[str, ...]], collate: Collator) -> NDArray[np.int64]:
    """Tokens of the longest question about each picture, with the picture and without an answer, (N,); no record is read.

    Args:
        index: the pictures.
        asked: keys of each question.
        collate: which makes the samples.
    """
    words = max(collate.question_length(keys, 0) for keys in asked)
    return _of_pictures(index, collate, lambda image_tokens: words + image_tokens)


def check_questions(index: TarIndex, asked: Iterable[tuple[str, ...]], collate: Collator, source: str) -> None:
    """Refuse questions that are too long before the first step: the collator would, when it meets them.

    Args:
        index: the pictures.
        asked: keys of each question.
        collate: which makes the samples.
        source: key of the set, for the message.

    Raises:
        InputError: names the setting, how many samples are too long, and the longest of them.
    """
    refuse_longer(index, question_lengths(index, asked, collate), "data.max_length", collate.max_length, source)


def refuse_longer(index: TarIndex, lengths: NDArray[np.int64], setting: str, most: int, source: str) -> None:
    """Refuse samples that are longer than a setting allows.

    Args:
        index: of the samples.
        lengths: of them in tokens, (N,).
        setting: its key.
        most: its value.
        source: key of the set.

    Raises:
        InputError: names the setting, how many samples are too long, and the longest of them.
    """
    over = np.flatnonzero(lengths > most)
    if not len(over):
        return
    order = over[np.argsort(-lengths[over], kind="stable")]
    named = ", ".join(f"{index.id(row)!r} ({lengths[row]} tokens)" for row in order[:_NAMED].tolist())
    more = f" and {len(over) - _NAMED} more" if len(over) > _NAMED else ""
    msg = (
        f"{setting}: found {most}; {len(over)} of the {len(lengths)} samples of {source} {'is' if len(over) == 1 else 'are'} longer: "
        f"{named}{more}; allowed is {lengths.max()} or more (or lower model.backbone.max_pixels; of `emo predict`, --max-pixels)"
    )
    raise InputError(msg)


def sample_lengths(index: TarIndex, objectives: Sequence[Objective], collate: Collator) -> NDArray[np.int64]:
    """Tokens of question, picture and answer together.

    Args:
        index: the records.
        objectives: that may be asked.
        collate: which makes the samples.

    Returns:
        (N, objectives); 0 where a record has no label for an objective.
    """
    name = _identity(index, objectives, collate)
    place = cache_folder() / "lengths" / f"{name}.npz" if name is not None else None
    if place is not None and (kept := _kept(place, (len(index), len(objectives)))) is not None:
        return kept
    found = _counted(index, objectives, collate)
    if place is not None:
        try:
            write_npz(place, {"lengths": found}, shared=True)
        except OSError as error:
            log.info("%s: lengths of texts are not kept: %s", place, error)
    return found


def _kept(place: Path, shape: tuple[int, int]) -> NDArray[np.int64] | None:
    try:
        found = read_npz(place).get("lengths")
    except MissingFileError:
        return None
    except InputError as error:
        log.warning("%s; counted anew", error)
        return None
    return found.astype(np.int64) if found is not None and found.shape == shape and found.dtype.kind == "i" else None


def _identity(index: TarIndex, objectives: Sequence[Objective], collate: Collator) -> str | None:
    """What the lengths follow from: records, tokenizer, prompts, and how pictures of these sizes are resized. None: it cannot be told."""
    backend = getattr(collate.tokenizer, "backend_tokenizer", None)
    if backend is None or not len(index):
        return None
    record = index.record(0)
    resized = collate.family.resized_size(collate.processor, (record.width, record.height))
    sizes = index.sizes()
    known = [
        _VERSION,
        index.records_hash,
        # A record of ours holds its picture's size; a label in its place does not.
        hashlib.sha256(sizes.astype("<i8").tobytes()).hexdigest(),
        hashlib.sha256(backend.to_str().encode()).hexdigest(),
        collate.model_type,
        [[one.name, one.keys, collate.prompt_ids(one.keys)] for one in objectives],
        [list(row) for row in _image_tokens(np.unique(sizes, axis=0), collate)],
        # How an answer is written, boxes among it.
        [target_answer(one.available(record), record, collate.codec, resized) for one in objectives],
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:32]


def _of_pictures(index: TarIndex, collate: Collator, length: Callable[[int], int]) -> NDArray[np.int64]:
    """What follows from the tokens of each picture, (N,); computed once for each size."""
    sizes, place = np.unique(index.sizes(), axis=0, return_inverse=True)
    found = [length(tokens) for *_, tokens in _image_tokens(sizes, collate)]
    return np.array(found, dtype=np.int64)[place.reshape(-1)]


def _image_tokens(sizes: NDArray[np.int64], collate: Collator) -> list[tuple[int, int, int, int, int]]:
    """(width, height, resized width, resized height, tokens) of pictures of these sizes."""
    found = []
    for width, height in sizes.tolist():
        resized = collate.family.resized_size(collate.processor, (width, height))
        found.append((width, height, *resized, collate.family.image_tokens(collate.processor, resized)))
    return found


def _counted(index: TarIndex, objectives: Sequence[Objective], collate: Collator) -> NDArray[np.int64]:
    """As `sample_lengths`; reads every record once."""
    found = np.zeros((len(index), len(objectives)), dtype=np.int64)
    for start in range(0, len(index), _AT_ONCE):
        places, texts, fixed = [], [], []
        for row in range(start, min(start + _AT_ONCE, len(index))):
            record = index.record(row)
            resized = collate.family.resized_size(collate.processor, (record.width, record.height))
            image_tokens = collate.family.image_tokens(collate.processor, resized)
            for column, one in enumerate(objectives):
                if keys := one.available(record):
                    places.append((row, column))
                    texts.append(target_answer(keys, record, collate.codec, resized))
                    fixed.append(collate.length(keys, image_tokens, 0))
        if texts:
            ids = collate.tokenizer(texts, add_special_tokens=False)["input_ids"]
            rows, columns = np.array(places).T
            found[rows, columns] = np.array(fixed) + [len(one) for one in ids]
    return found
