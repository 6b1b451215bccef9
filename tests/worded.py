"""Tiny backbones of every family, whose tokenizer tells the eight emotions apart by their first tokens, as the real one does."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def worded_qwen(tmp_path_factory: pytest.TempPathFactory, world_tars: Path) -> Path:
    """Model folder of a random Qwen2.5-VL: as `tiny_qwen`, with a vocabulary in which every word is one token."""
    from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of

    words = words_of([str(world_tars)])
    sizes = TinyQwen(hidden_size=64, layers=4, heads=4, vision_hidden=32, vision_layers=2, vocabulary=4000)
    whole = [*words, *(f" {word}" for word in words)]
    return build_qwen(tmp_path_factory.mktemp("worded") / "model", whole, sizes, max_pixels=84 * 84, seed=0)


@pytest.fixture(scope="session", params=["qwen2_5_vl", "qwen3_vl", "qwen3_5"])
def worded_model(request: pytest.FixtureRequest, worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `worded_qwen`, of each family."""
    if request.param == "qwen2_5_vl":
        return worded_qwen
    from tests.models.families.tiny_qwen3_5 import build_qwen3_5
    from tests.models.families.tiny_qwen3_vl import build_qwen3_vl

    if request.param == "qwen3_5":
        return build_qwen3_5(tmp_path_factory.mktemp("worded35") / "model", worded_qwen, max_pixels=96 * 96)
    return build_qwen3_vl(tmp_path_factory.mktemp("worded3") / "model", worded_qwen, max_pixels=96 * 96)
