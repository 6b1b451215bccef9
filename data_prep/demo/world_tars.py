"""Reference tars of the demo world: its known truth, or neutral captions, without annotators between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from data_prep.demo.config import WorldConfig
from data_prep.demo.world_source import draw
from data_prep.export import ImageType, Manifest, write_shards
from data_prep.sources.base import SourceError
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record, describe
from emo_lightning.core.terminal import say

WorldLabels = Literal["truth", "neutral"]


def write_world_tars(
    out: str | Path,
    world: WorldConfig,
    splits: dict[str, int],
    labels: WorldLabels,
    *,
    samples_per_shard: int = 1000,
    images: ImageType = "jpg",
) -> Manifest:
    """Write `world-SPLIT-{000000..}.tar` for the first images of each split, and the manifest.

    Args:
        out: directory.
        world: seed, label noise and style.
        splits: images per split (pretrain, train, val, test, heldout).
        labels: `truth` (everything, known exactly) or `neutral` (neutral caption, triplet and boxes; no emotion, no intensity).
        samples_per_shard: at most this many images in one tar.
        images: the type of all images; most of the drawn ones are `jpg`. See `write_shards`.

    Returns:
        The manifest.
    """
    if labels not in ("truth", "neutral"):
        msg = f"labels {labels!r}; allowed: truth, neutral"
        raise ValueError(msg)

    def records() -> Iterator[tuple[Record, bytes, str]]:
        for sample in draw(world, splits):
            yield sample.truth if labels == "truth" else sample.neutral, sample.image, sample.extension

    return write_shards(
        records(), out, "world", samples_per_shard, images=images, created_from=tars_origin(world, splits, labels)
    )


def tars_origin(world: WorldConfig, splits: dict[str, int], labels: WorldLabels) -> dict[str, object]:
    """What `manifest.json` says of such tars: equal origin, equal bytes."""
    about: dict[str, object] = {"seed": world.seed, "label_noise": world.label_noise, "splits": splits, "labels": labels}
    # What is as it always was is not named: tars that were made before there was a choice stay complete.
    if world.style != "flat":
        about["style"] = world.style
    if world.attribute_share != 1:
        about["attribute_share"] = world.attribute_share
    return {"world": about}


def world_tars_stage(
    out: Path,
    split: str,
    count: int,
    style: Literal["flat", "dusk"] = "flat",
    labels: WorldLabels = "truth",
    seed: int = 0,
    label_noise: float = 0.05,
    attribute_share: float = 1.0,
) -> None:
    """Stage of an experiment: tars of one split of the drawn world, in `out`.

    Args:
        out: the stage's directory.
        split: pretrain, train, val, test or heldout.
        count: images.
        style: colours and lines; all styles show the same combinations in the same order.
        labels: `truth` (everything, known exactly) or `neutral` (neutral caption, triplet and boxes).
        seed: of the world; decides which combinations are held out.
        label_noise: of the simulated human's label.
        attribute_share: of the images whose neutral caption and record name the attribute (0–1).
    """
    from data_prep.demo.world import WORLD_SPLITS

    if split not in WORLD_SPLITS or count < 1:
        msg = f"split {split!r}, count {count}: allowed are {', '.join(WORLD_SPLITS)} and counts from 1"
        raise SourceError(msg)
    try:
        world = WorldConfig(seed=seed, label_noise=label_noise, style=style, attribute_share=attribute_share)
    except ValidationError as error:
        raise InputError(describe(error)) from None
    manifest = write_world_tars(out, world, {split: count}, labels)
    say(f"{count} images of split {split} in style {style}: {len(manifest['shards'])} tars in {out}")
