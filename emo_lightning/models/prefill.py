"""Questions that are read once, in one row without padding, and answered from what is kept of them.

A forward pass over the row fills a cache of keys and values. Those that a question sees are gathered from it, those of what it shares
with other questions about its image among them, and transformers' generation goes on as if it had read that question alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from emo_lightning.models.families import Family
from emo_lightning.models.families.samples import Samples
from emo_lightning.models.rows import questions_of, states_apart, with_text

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


@dataclass(frozen=True)
class Read:
    """A row of questions that has been read.

    Args:
        row: packed.
        numbers: of each question, which of those about its image it is.
        places: of each question, (n,) those in the row that it sees; the last is its own last.
        states: (questions, H) after the final norm, at the end of each question, or of the text that follows it.
        cache: keys and values of the row.
        hidden: (layers, 1, T, H) of the row: the model's last layers, shallow to deep; None where none were asked for.
    """

    row: Mapping[str, object]
    numbers: list[int]
    places: list[Tensor]
    states: Tensor
    cache: Cache
    hidden: Tensor | None = None

    def features(self, number: int) -> tuple[Tensor, Tensor]:
        """Hidden states of what one of the questions about each image sees: what a DES head takes.

        Args:
            number: of the question.

        Returns:
            (layers, B, longest, H), padded on the right, and which of them are of tokens, (B, longest) bool.

        Raises:
            ValueError: no layers were kept.
        """
        if self.hidden is None:
            msg = "this row was read without keeping hidden states: give `layers` to `read_row`"
            raise ValueError(msg)
        own = [places for which, places in zip(self.numbers, self.places, strict=True) if which == number]
        return states_apart(self.hidden[:, :, torch.cat(own)], [len(places) for places in own])


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Keep what some modules give, in the order in which they run.

    Yields:
        A list that is filled while the model runs.
    """
    kept: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, out: kept.append(out[0] if isinstance(out, tuple) else out))
        for module in modules
    ]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def last_layers(layers: Sequence[nn.Module], count: int) -> Iterator[list[Tensor]]:
    """Keep what the last layers but the very last give, shallow to deep; that one's states are those before the final norm.

    Args:
        layers: of the language model, shallow to deep.
        count: the last so many, the very last among them.

    Yields:
        `count` - 1 tensors, once the model has run.
    """
    with outputs_of(layers[len(layers) - count : -1]) as kept:
        yield kept


@torch.no_grad()
def read_row(
    model: PreTrainedModel,
    family: Family,
    row: Mapping[str, object],
    after: Mapping[int, Sequence[int]] | None = None,
    layers: int = 0,
) -> Read:
    """One forward pass.

    Args:
        model: without adapters' wrapping.
        family: of the model.
        row: of the collator, packed and without answers.
        after: number of a question -> tokens that follow it, which its state has seen and its answer will not.
        layers: how many of the last layers' hidden states are kept.
    """
    from transformers import DynamicCache

    ids, pieces = cast(Tensor, row["input_ids"]), questions_of(row)
    texts = [[] if number is None else list((after or {}).get(number, ())) for number in pieces]
    if any(texts):
        row = with_text(row, [torch.tensor(text, dtype=ids.dtype, device=ids.device) for text in texts])
    cache = DynamicCache(config=model.config.get_text_config())
    with last_layers(family.layers(model), layers or 1) as kept:
        last = family.packed_states(model, row, cache)
    seen, where = Samples.of_row(row, ids.device).seen
    asked = [
        (number, places, len(text))
        for number, places, text in zip(pieces, where.split(list(seen.lengths)), texts, strict=True)
        if number is not None
    ]
    ends = torch.stack([places[-1] for _, places, _ in asked])
    own = [places[: len(places) - added] for _, places, added in asked]
    hidden = torch.stack([*kept, last]) if layers else None
    return Read(row, [number for number, _, _ in asked], own, last[0, ends], cache, hidden)


def continuing(model: PreTrainedModel, family: Family, padding: int, read: Read, numbers: Sequence[int]) -> dict[str, object]:
    """What generation takes to answer some of the questions about each image, all of them at once.

    Args:
        model: without adapters' wrapping; it learns how far positions are ahead of places.
        family: of the model.
        padding: id of the token that fills.
        read: by `read_row`.
        numbers: of the questions; the rows are all images' first, then all images' second.
    """
    parts = [places for number in numbers for which, places in zip(read.numbers, read.places, strict=True) if which == number]
    at = pad_sequence(parts, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True, padding_side="left")
    ids = cast(Tensor, read.row["input_ids"])[0][at].masked_fill(mask == 0, padding)
    # The last token is read again, for what follows it.
    cache = family.cache_of(model, read.cache, at[:, :-1], mask[:, :-1])
    last = cast(Tensor, read.row["positions"])[0, 0, at[:, -1]]
    family.go_on(model, (last + 1 - mask.sum(1))[:, None])
    return {"input_ids": ids, "attention_mask": mask, "past_key_values": cache}
