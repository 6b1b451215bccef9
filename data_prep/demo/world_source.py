"""The demo world as a source: images drawn by the program. Its truth stays outside the store; see `world_truth`."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.demo.config import DemoConfig, WorldConfig
from data_prep.sources.base import SourceError, SourceItem, SourceRefusal
from emo_lightning.core.lifetimes import die_with_parent
from emo_lightning.core.records import Record

if TYPE_CHECKING:
    from data_prep.demo.world import WorldSample

_CHUNK = 100
"""Images drawn per job: large enough that start-up and pickling do not count."""


def draw(world: WorldConfig, splits: dict[str, int], workers: int | None = None) -> Iterator[WorldSample]:
    """Samples 0…count−1 of each split, in order, drawn by `workers` processes (default: one per core; none for few)."""
    workers = workers if workers is not None else os.cpu_count() or 1
    chunks = [
        (world, split, start, min(_CHUNK, count - start))
        for split, count in splits.items()
        for start in range(0, count, _CHUNK)
    ]
    if workers < 2 or sum(splits.values()) < 3 * _CHUNK:
        for chunk in chunks:
            yield from _draw_chunk(*chunk)
        return
    # Spawned, not forked: the caller may hold threads (a progress bar, torch). A pool's processes wait for work for ever where their
    # caller was killed.
    context = multiprocessing.get_context("spawn")
    ends = (signal.SIGKILL, os.getpid())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=die_with_parent, initargs=ends) as pool:
        for job in [pool.submit(_draw_chunk, *chunk) for chunk in chunks]:
            yield from job.result()


def _draw_chunk(config: WorldConfig, split: str, start: int, count: int) -> list[WorldSample]:
    from data_prep.demo.world import World

    world = World(config.seed, config.label_noise, config.style, config.attribute_share)
    return [world.sample(split, index) for index in range(start, start + count)]


def world_truth(sample: WorldSample) -> Record:
    """The truth of a sample, with its neutral caption in provenance: what the simulated annotators look up."""
    provenance = {**sample.truth.provenance, "neutral_description": sample.neutral.description}
    return sample.truth.model_copy(update={"provenance": provenance})


def world_item(sample: WorldSample) -> SourceItem:
    """A sample as an importer sees it: the noisy human label is all that is said of the emotion."""
    truth = sample.truth
    return SourceItem(
        key=sample.key,
        image=sample.image,
        extension=sample.extension,
        width=truth.width,
        height=truth.height,
        source="world",
        split=sample.split,
        labels={"emotion": str(sample.human_emotion)},
        regions=tuple(truth.objects),
        licence=str(truth.provenance["licence"]),
        origin=str(truth.provenance["origin"]),
    )


class WorldSource:
    """Draws the splits that a configuration file names under `world:`."""

    def read(self, path: Path) -> Iterator[SourceItem | SourceRefusal]:
        """`path` is a YAML file of configs/prep with a `world` key.

        Raises:
            SourceError: the file has no `world` key.
            ConfigError: the file is wrong.
        """
        config = DemoConfig.load(path)
        if config.world is None:
            msg = f"{path}: key 'world' (seed, label_noise, splits) is missing"
            raise SourceError(msg)
        for sample in draw(config.world, config.world.splits):
            yield world_item(sample)
