"""Attention among samples that stand one after another in one row, in both towers: none sees another's tokens.

transformers calls the attention of a vision tower once a window and layer unless FlashAttention is installed: an image of
448 × 448 pixels has 16 windows, so a batch of eight makes 3,584 calls of 64 patches each, and a GPU waits for Python. For packed
text it makes a mask of (tokens, tokens). Here both are one call a layer (`attend`), and nothing is padded or masked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from emo_lightning.models.families.autocast import autocast_type
from emo_lightning.models.families.samples import Samples

# transformers hands the windows' boundaries to implementations with "flash" in their name, and to no others.
VISION_ATTENTION = "windowed_flash_sdpa"
LANGUAGE_ATTENTION = "packed_sdpa"
"""Names under which transformers knows `vision_attention` and `language_attention`."""

SEES_WHOLE_KEY = "sees_whole_images"
"""Attribute of the attention of a vision tower's block."""


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
    """Attention of each token to those of its own sample, and to those that its sample sees before itself.

    On CUDA in half precision by torch's kernel for samples of several lengths; else one call of scaled dot-product attention for each
    length that occurs, on a CPU in float32 where it is causal.

    Args:
        query: (T, heads, d) of the T tokens of all samples.
        key: (K, key heads, d) of the tokens that are seen, the same T where `among` does not say otherwise; each head serves heads /
            (key heads) of the queries'.
        value: as `key`.
        among: whose lengths add up to T.
        causal: only to tokens that stand before, and to itself.
        dropout: on the weights.
        scaling: of the products; None is d^-0.5.

    Returns:
        (T, heads, d).
    """
    kind = autocast_type(query.device) or query.dtype
    # As scaled dot-product attention does by itself: rotary positions make queries and keys float32, which the kernel does not take.
    query, key, value = (part.to(kind) for part in (query, key, value))
    if causal and query.device.type == "cpu" and kind in (torch.bfloat16, torch.float16):
        # There torch takes two to four times as long for its gradient in 16 bits. Without a gradient, too: policies are compared with what
        # they said before. A vision tower learns in few trainings, and is faster in 16 bits where it does not.
        with torch.autocast(query.device.type, enabled=False):
            wide = query.float(), key.float(), value.float()
            return attend(*wide, among=among, causal=causal, dropout=dropout, scaling=scaling).to(kind)
    if shared := query.shape[1] // key.shape[1] - 1:
        # Not as an option of scaled dot-product attention: its gradient on two threads of a CPU then takes three times as long.
        key, value = (part.repeat_interleave(shared + 1, dim=1) for part in (key, value))
    if not dropout and _kernel_takes(query):
        return _by_kernel(query, key, value, among, causal=causal, scaling=scaling)
    if not among.sorted:
        own, others, _ = among.order
        query, key, value = query.index_select(0, own), key.index_select(0, others), value.index_select(0, others)
    groups = [(len(numbers), length, seen) for (length, seen), numbers in among.groups.items()]
    # Views. The gradient of a gather would be a row of zeros for each length.
    queries = query.split([samples * length for samples, length, _ in groups])
    keys, values = (part.split([samples * seen for samples, _, seen in groups]) for part in (key, value))
    outs = []
    for (samples, length, seen), *parts in zip(groups, queries, keys, values, strict=True):
        # (samples · length, heads, d) -> (samples, heads, length, d)
        q, k, v = (part.unflatten(0, (samples, -1)).transpose(1, 2) for part in parts)
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
        )
        outs.append(out.transpose(1, 2).flatten(0, 1))
    whole = outs[0] if len(outs) == 1 else torch.cat(outs)
    return whole if among.sorted else whole.index_select(0, among.order[2])


def _kernel_takes(query: Tensor) -> bool:
    """Whether torch's kernel computes it: in half precision, from Ampere on."""
    if query.device.type != "cuda" or query.dtype not in (torch.bfloat16, torch.float16) or query.shape[-1] % 8:
        return False
    return torch.cuda.get_device_capability(query.device) >= (8, 0)


def _by_kernel(query: Tensor, key: Tensor, value: Tensor, among: Samples, *, causal: bool, scaling: float | None) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    seen = among if among.sees is None else among.seen[0]
    if not among.apart:
        key, value = (part.index_select(0, among.seen[1]) for part in (key, value))
    window = (-1, 0) if causal else (-1, -1)
    # Where a sample sees more than itself, the kernel lets its last token see all.
    out = varlen_attn(
        query, key, value, among.bounds, seen.bounds, among.longest, seen.longest, scale=scaling, window_size=window
    )
    return cast(Tensor, out)


def vision_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seq_lens_q: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    pictures: Samples | None = None,
    windows: Samples | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention within windows or images, in the form that transformers' registry of attention functions asks for.

    Args:
        module: the block's attention; `mark_windows` has said whether it sees windows or whole images.
        query: (1, heads, patches, d); `key` and `value` likewise.
        key: see `query`.
        value: see `query`.
        cu_seq_lens_q: (windows + 1,), where each window begins, and the number of patches.
        scaling: of the products; None is d^-0.5.
        dropout: on the weights.
        pictures: where the batch says where its patches stand (`Places`): those of each image.
        windows: as `pictures`: those of each window.
        **_: what else transformers hands to every implementation; the mask is None, as the boundaries say what may be attended to.

    Returns:
        (1, patches, heads, d) and None for the weights.
    """
    whole = getattr(module, SEES_WHOLE_KEY, None)
    among = None if whole is None else pictures if whole else windows
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return attend(q, k, v, among or _between(cu_seq_lens_q), causal=False, dropout=dropout, scaling=scaling)[None], None


@lru_cache(maxsize=4)
def _between(bounds: Tensor) -> Samples:
    """As `Samples.between`, once for all layers: they are given the same tensor."""
    return Samples.between(bounds)


def mark_windows(blocks: nn.Module, whole: Sequence[int]) -> None:
    """Say which blocks of a vision tower see whole images, and that the others see windows.

    Args:
        blocks: list of blocks with an `attn`, changed in place.
        whole: numbers of the former.
    """
    for number, block in enumerate(blocks.children()):
        setattr(block.get_submodule("attn"), SEES_WHOLE_KEY, number in whole)


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
        name: `VISION_ATTENTION` or `LANGUAGE_ATTENTION`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(VISION_ATTENTION, vision_attention)
    AttentionInterface.register(LANGUAGE_ATTENTION, language_attention)
    # For rows that are padded.
    AttentionMaskInterface.register(LANGUAGE_ATTENTION, sdpa_mask)
    # Not at loading: there a name with "flash" in it is checked against the installed FlashAttention packages.
    for part in tower.modules():
        if (config := getattr(part, "config", None)) is not None:
            config._attn_implementation = name
