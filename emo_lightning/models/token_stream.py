"""Tokens of answers while they are written: what transformers' generation calls a streamer, of several rows at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

OnTokens: TypeAlias = Callable[[list[list[int]]], None]
"""Is told all tokens that have been written so far, a list for each row; of a row that has ended, padding follows."""


class TokenStreamer:
    """A streamer, by what it does: `generate` asks for no more than these two methods.

    Args:
        on_tokens: told after every token.
    """

    def __init__(self, on_tokens: OnTokens) -> None:
        self._on_tokens = on_tokens
        self._rows: list[list[int]] | None = None

    def put(self, value: Tensor) -> None:
        """The question's tokens (B, T) at first, then the next token of each row, (B,)."""
        if self._rows is None:
            self._rows = [[] for _ in range(len(value))]
            return
        for row, token in zip(self._rows, value.flatten().tolist(), strict=True):
            row.append(token)
        self._on_tokens(self._rows)

    def end(self) -> None:
        """Nothing more comes."""
