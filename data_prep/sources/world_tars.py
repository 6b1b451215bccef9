"""Reference tars of the demo world: its known truth, or neutral captions, without annotators between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from data_prep.config import WorldConfig
from data_prep.export import write_shards
from data_prep.sources.world_source import draw
from emo_lightning.schema import Record

WorldLabels = Literal["truth", "neutral"]


def write_world_tars(
    out: str | Path, world: WorldConfig, splits: dict[str, int], labels: WorldLabels, *, samples_per_shard: int = 1000
) -> dict[str, Any]:
    """Write `world-SPLIT-{000000..}.tar` for the first images of each split, and the manifest.

    Args:
        out: directory.
        world: seed and label noise.
        splits: images per split (pretrain, train, val, test, heldout).
        labels: `truth` (everything, known exactly) or `neutral` (neutral caption, triplet and boxes; no emotion, no intensity).
        samples_per_shard: at most this many images in one tar.

    Returns:
        The manifest.
    """
    if labels not in ("truth", "neutral"):
        raise ValueError(f"labels {labels!r}; allowed: truth, neutral")

    def records() -> Iterator[tuple[Record, bytes, str]]:
        for sample in draw(world, splits):
            yield sample.truth if labels == "truth" else sample.neutral, sample.image, sample.extension

    return write_shards(records(), out, "world", samples_per_shard, created_from=tars_origin(world, splits, labels))


def tars_origin(world: WorldConfig, splits: dict[str, int], labels: WorldLabels) -> dict[str, Any]:
    """What `manifest.json` says of such tars: equal origin, equal bytes."""
    return {"world": {"seed": world.seed, "label_noise": world.label_noise, "splits": splits, "labels": labels}}
