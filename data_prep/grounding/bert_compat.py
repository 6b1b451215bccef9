"""What groundingdino-py 0.4.0 expects of transformers' `BertModel`, and transformers 5 no longer gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import AutoConfig, BertModel


class CompatibleBert(BertModel):
    """A BERT with the three methods that groundingdino-py takes over from it, built without weights of its own.

    Its weights are in the `.pth` of the detector; only the configuration is read here.
    """

    @classmethod
    def from_pretrained(cls, name: str, *_: object, **_options: object) -> CompatibleBert:  # type: ignore[override]
        """The architecture that `name` (hub name or folder) configures, with random weights."""
        return cls(AutoConfig.from_pretrained(name, trust_remote_code=False))

    def get_extended_attention_mask(self, attention_mask: torch.Tensor, *_: object) -> torch.Tensor:
        """Additive mask, shape (batch, 1, tokens or 1, tokens): 0 where attention may go, the smallest number elsewhere."""
        mask = attention_mask[:, None] if attention_mask.dim() == 3 else attention_mask[:, None, None]
        return self.invert_attention_mask(mask)

    def invert_attention_mask(self, mask: torch.Tensor) -> torch.Tensor:
        """1 → 0, 0 → the smallest number."""
        return (1.0 - mask.to(self.dtype)) * torch.finfo(self.dtype).min

    def get_head_mask(self, _: None, layers: int) -> list[None]:
        """No head is masked."""
        return [None] * layers


@contextlib.contextmanager
def compatible_bert() -> Iterator[None]:
    """Within it, groundingdino-py builds its text encoder from `CompatibleBert`; transformers itself is not touched."""
    from groundingdino.util import get_tokenlizer

    original = get_tokenlizer.BertModel
    get_tokenlizer.BertModel = CompatibleBert
    try:
        yield
    finally:
        get_tokenlizer.BertModel = original
