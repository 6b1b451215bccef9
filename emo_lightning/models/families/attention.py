"""Attention among samples that stand one after another in one row, in both towers: none sees another's tokens.

transformers calls the attention of a vision tower once a window and layer unless FlashAttention is installed: an image of
448 × 448 pixels has 16 windows, so a batch of eight makes 3,584 calls of 64 patches each, and a GPU waits for Python. For packed
text it makes a mask of (tokens, tokens). Here both are one call a layer (`attend`), and nothing is padded or masked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

# transformers hands the windows' boundaries to implementations with "flash" in their name, and to no others.
VISION = "windowed_flash_sdpa"
LANGUAGE = "packed_sdpa"
"""Names under which transformers knows `vision_attention` and `language_attention`."""


class Group(NamedTuple):
    """Samples of one length, and what each of them sees."""

    samples: int
    """How many."""
    length: int
    """Tokens of each."""
    places: Tensor | None
    """(samples · length,) where they stand in the row; None where they are the whole row."""
    seen: int
    """Tokens that each sees, itself among them as the last ones."""
    seen_places: Tensor | None
    """(samples · seen,) where these stand."""


@dataclass(frozen=True)
class Samples:
    """Where each of several samples stands in a row.

    Args:
        lengths: tokens or patches of each, all above 0, in their order.
        bounds: (samples + 1,) int32 on the device of the row: where each begins, and the length of the row.
        before: where the tokens begin, and how many they are, that each sees before its own; None: each sees itself alone.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    before: tuple[tuple[int, int], ...] | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Samples:
        """From their lengths; nothing waits for the device."""
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(tuple(lengths), bounds.to(device, non_blocking=True))

    @classmethod
    def of_row(cls, batch: Mapping[str, object], device: torch.device) -> Samples:
        """Of a packed batch of the collator."""
        if "branches" in batch:
            return cls.branched(cast("list[list[int]]", batch["branches"]), device)
        return cls.of(cast("list[int]", batch["lengths"]), device)

    @classmethod
    def branched(cls, images: Sequence[Sequence[int]], device: torch.device) -> Samples:
        """Of several images: the first sample of each is seen by those that follow it, and these do not see each other."""
        whole = cls.of([length for image in images for length in image], device)
        before: list[tuple[int, int]] = []
        begin = 0
        for first, *rest in images:
            before += [(begin, 0), *((begin, first) for _ in rest)]
            begin += first + sum(rest)
        return cls(whole.lengths, whole.bounds, tuple(before))

    @classmethod
    def between(cls, bounds: Tensor) -> Samples:
        """From their boundaries; waits for the device."""
        return cls(tuple(bounds.diff().tolist()), bounds)

    @property
    def longest(self) -> int:
        """Length of the longest."""
        return max(self.lengths)

    @cached_property
    def _before(self) -> tuple[tuple[int, int], ...]:
        return self.before or ((0, 0),) * len(self.lengths)

    @cached_property
    def seen(self) -> tuple[Samples, Tensor]:
        """What each sees, one after another, and where these tokens stand in the row; once a row."""
        device = self.bounds.device
        parts = []
        starts = accumulate(self.lengths, initial=0)
        for start, length, (begin, count) in zip(starts, self.lengths, self._before, strict=False):
            parts += [torch.arange(begin, begin + count), torch.arange(start, start + length)]
        lengths = [length + count for length, (_, count) in zip(self.lengths, self._before, strict=True)]
        return Samples.of(lengths, device), torch.cat(parts).to(device, non_blocking=True)

    @cached_property
    def groups(self) -> list[Group]:
        """The samples by their length and the number of tokens that they see."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
        starts = accumulate(self.lengths, initial=0)
        for start, length, (begin, count) in zip(starts, self.lengths, self._before, strict=False):
            found[length, count].append((start, begin))
        if list(found) == [(self.lengths[0], 0)]:
            return [Group(len(self.lengths), self.lengths[0], None, self.lengths[0], None)]
        device, groups = self.bounds.device, []
        for (length, count), begins in found.items():
            starts_of, before_of = torch.tensor(begins).T[:, :, None]
            places = starts_of + torch.arange(length)
            seen = torch.cat([before_of + torch.arange(count), places], 1)
            groups.append(Group(len(begins), length, places.flatten().to(device), count + length, seen.flatten().to(device)))
        return groups

    @cached_property
    def back(self) -> Tensor:
        """Where each place of the row stands in the groups, one after another."""
        return torch.cat([group.places for group in self.groups if group.places is not None]).argsort()


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    among: Samples,
    *,
    causal: bool,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Tensor:
    """Attention of each token to those of its own sample, and to those that its sample sees before it.

    On CUDA in half precision by torch's kernel for samples of several lengths; else one call of scaled dot-product attention for each
    length that occurs.

    Args:
        query: (T, heads, d) of the T tokens of all samples.
        key: (T, key heads, d); each serves heads / (key heads) of the queries'.
        value: as `key`.
        among: whose lengths add up to T.
        causal: only to tokens that stand before, and to itself.
        dropout: on the weights.
        scaling: of the products; None is d^-0.5.

    Returns:
        (T, heads, d).
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # As scaled dot-product attention does by itself: rotary positions make queries and keys float32, which the kernel does not take.
        query, key, value = (part.to(torch.get_autocast_dtype(device)) for part in (query, key, value))
    if not dropout and _kernel_takes(query):
        return _by_kernel(query, key, value, among, causal=causal, scaling=scaling)
    outs = []
    for samples, length, places, seen, seen_places in among.groups:
        # (samples · length, heads, d) -> (samples, heads, length, d)
        q, k, v = (
            (part if at is None else part[at]).unflatten(0, (samples, size)).transpose(1, 2)
            for part, at, size in ((query, places, length), (key, seen_places, seen), (value, seen_places, seen))
        )
        further = causal and seen > length
        # What stands before a sample is seen by all of it.
        mask = torch.ones(length, seen, dtype=torch.bool, device=q.device).tril(seen - length) if further else None
        out = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and not further,
            dropout_p=dropout,
            scale=scaling,
            enable_gqa=q.shape[1] != k.shape[1],
        )
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)[among.back]


def _kernel_takes(query: Tensor) -> bool:
    """Whether torch's kernel computes it: in half precision, from Ampere on."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16) or query.shape[-1] % 8:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, among: Samples, *, causal: bool, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    if shared := query.shape[1] // key.shape[1] - 1:
        key, value = (part.repeat_interleave(shared + 1, dim=1) for part in (key, value))
    seen = among
    if among.before is not None:
        seen, places = among.seen
        key, value = key[places], value[places]
    window = (-1, 0) if causal else (-1, -1)
    # Where a sample sees more than itself, the kernel lets its last token see all.
    out = varlen_attn(
        query, key, value, among.bounds, seen.bounds, among.longest, seen.longest, scale=scaling, window_size=window
    )
    return cast(Tensor, out)


def vision_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    windows: Sequence[Samples] = (),
    **_: object,
) -> tuple[Tensor, None]:
    """Attention within windows or images, in the form that transformers' registry of attention functions asks for.

    Args:
        _module: unused.
        query: (1, heads, patches, d); `key` and `value` likewise.
        key: see `query`.
        value: see `query`.
        cu_seq_lens_q: (windows + 1,), where each window begins, and the number of patches.
        scaling: of the products; None is d^-0.5.
        dropout: on the weights.
        windows: known already, with these boundaries among theirs.
        **_: what else transformers hands to every implementation; the mask is None, as the boundaries say what may be attended to.

    Returns:
        (1, patches, heads, d) and None for the weights.
    """
    among = next((known for known in windows if known.bounds is cu_seq_lens_q), None) or Samples.between(cu_seq_lens_q)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return attend(q, k, v, among, causal=False, dropout=dropout, scaling=scaling)[None], None


def language_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    samples: Samples | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **options: object,
) -> tuple[Tensor, None]:
    """Causal attention within each of the packed samples; without `samples`, transformers' own `sdpa`.

    Args:
        module: the layer's attention.
        query: (B, heads, T, d), B = 1 where samples are packed.
        key: (B, key heads, T, d).
        value: as `key`.
        attention_mask: for rows that are padded; None where samples are packed.
        samples: that stand in the row.
        dropout: on the weights.
        scaling: of the products.
        **options: of transformers' own.

    Returns:
        (B, T, heads, d) and None for the weights.
    """
    if samples is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        its_own = cast("Callable[..., tuple[Tensor, None]]", sdpa_attention_forward)
        return its_own(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options)
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return attend(q, k, v, samples, causal=True, dropout=dropout, scaling=scaling)[None], None


@cache
def attend_outside_graphs() -> None:
    """Have `torch.compile` leave `attend` as it is: it would compile anew for every set of lengths."""
    global attend
    attend = torch.compiler.disable(attend)


def attend_in_samples(tower: nn.Module, name: str) -> None:
    """Switch a tower that was loaded with `sdpa`.

    Args:
        tower: changed in place.
        name: `VISION` or `LANGUAGE`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VISION, vision_attention)
    AttentionInterface.register(LANGUAGE, language_attention)
    # For rows that are padded.
    AttentionMaskInterface.register(LANGUAGE, sdpa_mask)
    # Not at loading: there a name with "flash" in it is checked against the installed FlashAttention packages.
    for part in tower.modules():
        if (config := getattr(part, "config", None)) is not None:
            config._attn_implementation = name
