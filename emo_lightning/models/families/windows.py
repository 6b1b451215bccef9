"""Attention of the vision tower over all windows at once.

transformers calls its attention once a window and layer unless FlashAttention is installed: an image of 448 × 448 pixels has 16
windows, so a batch of eight makes 3,584 calls of 64 patches each, and the GPU waits for Python. Here windows are rows of one batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# transformers hands the windows' boundaries to implementations with "flash" in their name, and to no others.
NAME = "windowed_flash_sdpa"


def windowed_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    cu_seq_lens_q: Tensor,
    max_length_q: int,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Attention within windows, in the form that transformers' registry of attention functions asks for.

    Args:
        _module: unused.
        query: (1, heads, patches, d); `key` and `value` likewise.
        key: see `query`.
        value: see `query`.
        cu_seq_lens_q: (windows + 1,), where each window begins, and the number of patches.
        max_length_q: patches of the largest window.
        scaling: of the products; None is d^-0.5.
        dropout: on the weights.
        **_: what else transformers hands to every implementation; the mask is None, as the boundaries say what may be attended to.

    Returns:
        (1, patches, heads, d) and None for the weights.
    """
    windows, longest, patches = len(cu_seq_lens_q) - 1, int(max_length_q), query.shape[2]
    if windows * longest == patches:
        # (1, heads, patches, d) -> (windows, heads, longest, d)
        q, k, v = (part[0].unflatten(1, (windows, longest)).transpose(0, 1) for part in (query, key, value))
        return _attended(q, k, v, None, dropout, scaling).flatten(0, 1)[None], None
    place = torch.arange(longest, device=query.device)
    real = place < cu_seq_lens_q.diff()[:, None]  # (windows, longest)
    # Beyond the end of a shorter window any patch will do: it is masked.
    at = (cu_seq_lens_q[:-1, None] + place).clamp(max=patches - 1)
    q, k, v = (part[0][:, at].transpose(0, 1) for part in (query, key, value))
    return _attended(q, k, v, real[:, None, None], dropout, scaling)[real][None], None


def _attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None) -> Tensor:
    """Attention of queries, keys and values (windows, heads, longest, d); gives (windows, longest, heads, d)."""
    return functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling
    ).transpose(1, 2)


def attend_in_windows(visual: nn.Module) -> None:
    """Switch a vision tower to `windowed_attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, windowed_attention)
    # Not at loading: there a name with "flash" in it is checked against the installed FlashAttention packages.
    for part in visual.modules():
        if (config := getattr(part, "config", None)) is not None:
            config._attn_implementation = NAME
