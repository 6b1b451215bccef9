"""The stages `tiny_qwen` and `tiny_clip`: small models made from nothing, for the demo world."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of
from emo_lightning.models.tiny_clip import build_clip


def tiny_qwen_stage(
    out: Path, tars: list[str], sizes: TinyQwen | None = None, max_pixels: int = 112 * 112, seed: int = 0
) -> None:
    """Make a randomly initialised Qwen2.5-VL in `OUT/model`, its tokenizer made for the words of these tars.

    Args:
        out: the stage's directory.
        tars: whose texts the vocabulary comes from.
        sizes: of the model.
        max_pixels: pixel limit of the image processor.
        seed: of the weights.
    """
    words = words_of(tars)
    build_qwen(out / "model", [*words, *(f" {word}" for word in words)], sizes or TinyQwen(), max_pixels=max_pixels, seed=seed)


def tiny_clip_stage(out: Path, tars: list[str], seed: int = 0) -> None:
    """Make a randomly initialised CLIP in `OUT/model`, its tokenizer made for the words of these tars.

    Args:
        out: the stage's directory.
        tars: whose texts the vocabulary comes from.
        seed: of the weights.
    """
    build_clip(out / "model", words_of(tars), seed=seed)
