"""Questions that are read once, in one row without padding, and answered from what is kept of them.

A forward pass over the row fills a cache of keys and values. Those that a question sees are gathered from it, those of what it shares
with other questions about its image among them, and transformers' generation goes on as if it had read that question alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from emo_lightning.models.families import Family
from emo_lightning.models.families.samples import Samples
from emo_lightning.models.rows import questions_of, with_text

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel
    from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Read:
    """A row of questions that has been read.

    Args:
        row: packed.
        numbers: of each question, which of those about its image it is.
        places: of each question, (n,) those in the row that it sees; the last is its own last.
        states: (questions, H) after the final norm, at the end of each question, or of the text that follows it.
        cache: keys and values of the row.
    """

    row: Mapping[str, object]
    numbers: list[int]
    places: list[Tensor]
    states: Tensor
    cache: Cache


@torch.no_grad()
def read_row(
    model: PreTrainedModel, family: Family, row: Mapping[str, object], after: Mapping[int, Sequence[int]] | None = None
) -> Read:
    """One forward pass.

    Args:
        model: without adapters' wrapping.
        family: of the model.
        row: of the collator, packed and without answers.
        after: number of a question -> tokens that follow it, which its state has seen and its answer will not.
    """
    from transformers import DynamicCache

    ids, pieces = cast(Tensor, row["input_ids"]), questions_of(row)
    texts = [[] if number is None else list((after or {}).get(number, ())) for number in pieces]
    if any(texts):
        row = with_text(row, [torch.tensor(text, dtype=ids.dtype, device=ids.device) for text in texts])
    cache = DynamicCache(config=model.config.get_text_config())
    hidden = family.packed_states(model, row, cache)[0]
    seen, where = Samples.of_row(row, ids.device).seen
    asked = [
        (number, places, len(text))
        for number, places, text in zip(pieces, where.split(list(seen.lengths)), texts, strict=True)
        if number is not None
    ]
    ends = torch.stack([places[-1] for _, places, _ in asked])
    own = [places[: len(places) - added] for _, places, added in asked]
    return Read(row, [number for number, _, _ in asked], own, hidden[ends], cache)


def continuing(model: PreTrainedModel, family: Family, padding: int, read: Read, number: int) -> dict[str, object]:
    """What generation takes to answer one of the questions about each image.

    Args:
        model: without adapters' wrapping; it learns how far positions are ahead of places.
        family: of the model.
        padding: id of the token that fills.
        read: by `read_row`.
        number: of the question.
    """
    from transformers import DynamicCache

    parts = [places for which, places in zip(read.numbers, read.places, strict=True) if which == number]
    at = pad_sequence(parts, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True, padding_side="left")
    ids = cast(Tensor, read.row["input_ids"])[0][at].masked_fill(mask == 0, padding)
    cache = DynamicCache(config=model.config.get_text_config())
    for layer, kept in enumerate(cast("list[DynamicLayer]", read.cache.layers)):
        # (1, heads, T, d) -> (B, heads, longest - 1, d): the last token is read again, for what follows it.
        keys, values = (cast(Tensor, one)[0][:, at[:, :-1]].transpose(0, 1) for one in (kept.keys, kept.values))
        cache.update(keys, values, layer)
    last = cast(Tensor, read.row["positions"])[0, 0, at[:, -1]]
    family.go_on(model, (last + 1 - mask.sum(1))[:, None])
    return {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
