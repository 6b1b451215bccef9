"""How many tokens each sample will have, from its record alone: no picture is opened."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emo_lightning.data.chat import Objective, answer
from emo_lightning.data.collate import Collator
from emo_lightning.data.tar_index import TarIndex

_AT_ONCE = 1024


def shared_lengths(index: TarIndex, collate: Collator) -> NDArray[np.int64]:
    """Tokens of each sample up to the end of its picture, (N,)."""
    found = np.zeros(len(index), dtype=np.int64)
    for row in range(len(index)):
        record = index.record(row)
        resized = collate.family.resized_size(collate.processor, (record.width, record.height))
        found[row] = collate.shared_length(collate.family.image_tokens(collate.processor, resized))
    return found


def sample_lengths(index: TarIndex, objectives: Sequence[Objective], collate: Collator) -> NDArray[np.int64]:
    """Tokens of question, picture and answer together.

    Args:
        index: the records.
        objectives: that may be asked.
        collate: which makes the samples.

    Returns:
        (N, objectives); 0 where a record has no label for an objective.
    """
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
                    texts.append(answer(keys, record, collate.codec, resized))
                    fixed.append(collate.length(keys, image_tokens, 0))
        if texts:
            ids = collate.tokenizer(texts, add_special_tokens=False)["input_ids"]
            rows, columns = np.array(places).T
            found[rows, columns] = np.array(fixed) + [len(one) for one in ids]
    return found
