"""How many tokens a prompt with an image can cost at most."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from data_prep.settings import Settings

_ENVELOPE = 64
"""Tokens that a provider may add around messages."""


class ImageTokens(Settings):
    """How a model counts the tokens of an image.

    `tiles`: OpenAI (the image is fitted into 2048×2048, its shorter side brought down to 768, then cut into tiles of 512 pixels);
    `gemini`: crops of 258 tokens; `patches`: Qwen2.5-VL, a token per 28×28 pixels; `fixed`: the same for every image.
    """

    kind: Literal["tiles", "gemini", "patches", "fixed"]
    base: int = Field(default=85, ge=0)
    """tiles: tokens of an image before its tiles."""
    tile: int = Field(default=170, ge=0)
    """tiles: tokens of each tile."""
    limit: int = Field(default=16384, ge=1)
    """patches: the most that an image is given (`max_pixels` of the processor / 784)."""
    tokens: int = Field(default=0, ge=0)
    """fixed: tokens of an image."""

    def count(self, width: int | None, height: int | None) -> int:
        """The most tokens that an image can cost; of an unknown size, the most that any image can.

        Args:
            width: pixels, None where it is not known.
            height: pixels, None where it is not known.
        """
        largest = (2048, 768) if self.kind == "tiles" else (10_000, 10_000)
        w, h = (width, height) if width and height else largest
        match self.kind:
            case "fixed":
                return self.tokens
            case "tiles":
                scale = min(1.0, 2048 / max(w, h))
                scale *= min(1.0, 768 / (min(w, h) * scale))
                # Rounding of the resized sides may fall on either side of a tile's edge.
                tiles = math.ceil((w * scale + 1) / 512) * math.ceil((h * scale + 1) / 512)
                return self.base + self.tile * tiles
            case "gemini":
                unit = max(256, min(768, int(min(w, h) / 1.5)))
                # 3.x models take up to 1,120 tokens for any image.
                return max(1120, 258 * math.ceil(w / unit) * math.ceil(h / unit))
            case "patches":
                return min(self.limit, math.ceil(w / 28 + 1) * math.ceil(h / 28 + 1)) + 2
            case _:
                msg = f"unknown kind {self.kind!r}; allowed: tiles, gemini, patches, fixed"
                raise ValueError(msg)


def prompt_bound(texts: int, image: int) -> int:
    """The most prompt tokens of a request.

    Args:
        texts: bytes of all text and of the schema; a byte-level tokenizer gives at most one token for each.
        image: tokens of the image.
    """
    return texts + image + _ENVELOPE
