"""The linear attention of Qwen3.5 among samples that stand in a row: a gated delta rule behind a short convolution.

Each token is read into a state of fixed size, S = S (exp(g) (I - b k k')) + b v k' (Yang et al. 2024, arXiv:2412.06464, equation 10), so a row
read from end to end would carry each sample's state into the next, and the convolution its last tokens. transformers keeps samples apart by
kernels of other packages alone (flash-linear-attention, causal-conv1d), which begin anew at each sample and so cannot have several questions go
on from what they share of an image. Here samples are laid beside each other for these two steps, with zeros between, and the
questions about an image begin with the state and the last tokens of what they share. What computes is transformers' own function, its kernel
where there is one. Everything else of the layer stays in the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen3_5 import modeling_qwen3_5 as theirs

from emo_lightning.models.families.samples import Samples

if TYPE_CHECKING:
    from transformers import Cache


class KeptRow(NamedTuple):
    """What a layer keeps of a row in the place of keys and values, T tokens in all: what states at any place are computed from."""

    mixed: Tensor
    """(T, C) queries, keys and values, before the convolution."""
    beta: Tensor
    """(T, heads): how much of each token is written into the state."""
    decay: Tensor
    """(T, heads), at most 0: the logarithm of what is kept of the state before it."""

    def at(self, places: Tensor) -> KeptRow:
        """Laid out by (N, L) places, of which T is nowhere."""
        # A row of zeros: nothing is written, nothing is forgotten.
        return KeptRow(*(_with_zeros(part).index_select(0, places.flatten()).view(*places.shape, -1) for part in self))


class Beside(NamedTuple):
    """N pieces of a row, laid beside each other, L tokens the longest."""

    places: Tensor
    """(N, w + L) int64, where in the row of T tokens they stand, after the w that stand before each of them; T where there is none."""
    own: Tensor
    """(tokens,) int64: where each token of these pieces stands in (N · L)."""
    home: Tensor
    """(tokens,) int64: and in the row."""
    after: Tensor | None
    """(N,) int64: the piece of those laid out before whose state each goes on from; None: they begin with none."""


def _with_zeros(row: Tensor) -> Tensor:
    """(T, d) -> (T + 1, d)."""
    return functional.pad(row, (0, 0, 0, 1))


def beside(samples: Samples, before: int) -> list[Beside]:
    """The pieces of a row that begin with no state, and those that go on from one of them, if there are any.

    Args:
        samples: of the row.
        before: tokens before a piece that its convolution sees.
    """
    return _beside(samples.bounds, samples.lengths, samples.sees, before)


@lru_cache(maxsize=4)
def _beside(bounds: Tensor, lengths: tuple[int, ...], sees: tuple[tuple[range, ...], ...] | None, before: int) -> list[Beside]:
    """As `beside`, once for all layers: they are given the same tensor."""
    parts = Samples(lengths, bounds, sees).parts
    roots = [own for *shared, own in parts if not shared]
    number = {own.start: at for at, own in enumerate(roots)}
    branches = [(shared[0], own) for *shared, own in parts if shared]
    nowhere = sum(lengths)
    found = [_laid([(range(0), own) for own in roots], None, nowhere, before)]
    if branches:
        after = torch.tensor([number[shared.start] for shared, _ in branches])
        found.append(_laid(branches, after, nowhere, before))

    def moved(part: Tensor) -> Tensor:
        return part.to(bounds.device, non_blocking=True)

    return [
        Beside(moved(one.places), moved(one.own), moved(one.home), None if one.after is None else moved(one.after))
        for one in found
    ]


def _laid(pieces: Sequence[tuple[range, range]], after: Tensor | None, nowhere: int, before: int) -> Beside:
    """Of pieces with what stands before each of them, on the CPU."""
    longest = max(len(own) for _, own in pieces)
    places = torch.full((len(pieces), before + longest), nowhere)
    inside, home = [], []
    for number, (shared, own) in enumerate(pieces):
        tail = shared[max(0, len(shared) - before) :]
        places[number, before - len(tail) : before + len(own)] = torch.tensor([*tail, *own])
        inside.append(torch.arange(len(own)) + number * longest)
        home.append(torch.arange(own.start, own.stop))
    return Beside(places, torch.cat(inside), torch.cat(home), after)


class RowDelta(theirs.Qwen3_5GatedDeltaNet):
    """The layer's linear attention, within the samples of a row where they stand in one."""

    def forward(
        self,
        hidden_states: Tensor,
        *arguments: Any,  # noqa: ANN401 - transformers'
        samples: Samples | None = None,
        **options: Any,  # noqa: ANN401 - transformers'
    ) -> Tensor:
        """As transformers', which computes where there are no `samples`.

        Args:
            hidden_states: (1, T, H) after the norm.
            *arguments: of transformers' own.
            samples: of the row.
            **options: of transformers' own: `cache_params`, that keeps the row.
        """
        if samples is None:
            return cast(Tensor, super().forward(hidden_states, *arguments, **options))
        row = self._row(hidden_states)
        if (cache := cast("Cache | None", options.get("cache_params"))) is not None:
            cast("list[object]", cache.layers)[self.layer_idx] = row
        found = self._among(row, samples)
        gates = self.in_proj_z(hidden_states).reshape(-1, self.head_v_dim)
        normed: Tensor = self.norm(found.reshape(-1, self.head_v_dim), gates)
        return cast(Tensor, self.out_proj(normed.view(*hidden_states.shape[:-1], -1)))

    def _row(self, hidden_states: Tensor) -> KeptRow:
        mixed, b, a = (of(hidden_states)[0] for of in (self.in_proj_qkv, self.in_proj_b, self.in_proj_a))
        # In float32, as transformers': in half precision the exponential may be infinite.
        return KeptRow(mixed, b.sigmoid(), -self.A_log.float().exp() * functional.softplus(a.float() + self.dt_bias))

    def _among(self, row: KeptRow, samples: Samples) -> Tensor:
        """(T, heads, d) of a row."""
        found: Tensor | None = None
        states: Tensor | None = None
        laid = beside(samples, self.conv_kernel_size - 1)
        for pieces in laid:
            begin = None if pieces.after is None else cast(Tensor, states).index_select(0, pieces.after)
            out, states = self._computed(row.at(pieces.places), begin, ends=len(laid) > 1)
            flat = out.flatten(0, 1).index_select(0, pieces.own)
            if len(laid) == 1:
                # In the order of the row.
                return flat
            found = flat.new_zeros(len(row.mixed), *flat.shape[1:]) if found is None else found
            found = found.index_copy(0, pieces.home, flat)
        return cast(Tensor, found)

    def _computed(self, laid: KeptRow, begin: Tensor | None, *, ends: bool) -> tuple[Tensor, Tensor | None]:
        """(N, L, heads, d) of pieces, and their last states (N, heads, d, d) where asked for.

        Args:
            laid: (N, w + L, ...): the pieces, and what their convolution sees before them.
            begin: (N, heads, d, d) states that they go on from; None: none.
            ends: whether the last states are wanted.
        """
        before = self.conv_kernel_size - 1
        mixed: Tensor = theirs.causal_conv1d_fn(
            laid.mixed.transpose(1, 2), self.conv1d.weight.squeeze(1), self.conv1d.bias, activation=self.activation
        )
        keys, width = self.key_dim, self.head_k_dim
        query, key, value = mixed.transpose(1, 2)[:, before:].split([keys, keys, self.value_dim], -1)
        out, last = theirs.torch_chunk_gated_delta_rule(
            query.unflatten(-1, (-1, width)),
            key.unflatten(-1, (-1, width)),
            value.unflatten(-1, (-1, self.head_v_dim)),
            g=laid.decay[:, before:],
            beta=laid.beta[:, before:],
            initial_state=begin,
            output_final_state=ends,
            use_qk_l2norm_in_kernel=True,
        )
        return out, last

    def go_on_from(self, row: KeptRow, places: Tensor) -> tuple[Tensor, Tensor]:
        """What transformers' cache holds after some tokens of a row, each time read from the first of them.

        Args:
            row: kept.
            places: (N, L) in the row of T tokens; T where there is none, before the others.

        Returns:
            (N, C, w + 1) last tokens before the convolution, and states (N, heads, d, d).
        """
        before = self.conv_kernel_size - 1
        # Zeros before the first token, as a convolution sees them, and enough of them for a short one.
        laid = row.at(functional.pad(places, (before + 1, 0), value=len(row.mixed)))
        _, states = self._computed(laid, None, ends=True)
        return laid.mixed[:, -self.conv_kernel_size :].transpose(1, 2).contiguous(), cast(Tensor, states)


def read_in_samples(language: nn.Module) -> None:
    """Have the linear attention of a language model keep samples of a row apart; in place, before adapters are on it."""
    for module in language.modules():
        if type(module) is theirs.Qwen3_5GatedDeltaNet:
            module.__class__ = RowDelta


@cache
def compute_outside_graphs() -> None:
    """Have `torch.compile` leave `RowDelta` as it is among samples: it would compile anew for every set of lengths."""
    RowDelta._among = torch.compiler.disable(RowDelta._among)  # type: ignore[method-assign]
