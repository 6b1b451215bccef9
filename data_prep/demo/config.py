"""The configuration of a pass over the demo world: that of a pass, with the keys `world` and `simulation`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from data_prep.config import PrepConfig
from data_prep.demo.simulation.config import SimulationConfig
from data_prep.demo.world.source import WORLD_SPLITS
from data_prep.settings import Settings


class WorldConfig(Settings):
    """The demo world as a source: how many images of each split."""

    seed: int = 0
    """Decides every image, and which combinations are held out."""
    label_noise: float = Field(default=0.05, ge=0, le=1)
    """How often the label of the simulated human is wrong."""
    style: Literal["flat", "dusk"] = "flat"
    """Colours and lines: the same world drawn in another way, for tests out of the domain that was trained on."""
    attribute_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the images whose neutral caption names the attribute."""
    splits: dict[str, int] = Field(default={"train": 300, "val": 60})
    """Images by split."""

    @field_validator("splits")
    @classmethod
    def _known_splits(cls, splits: dict[str, int]) -> dict[str, int]:
        if unknown := [split for split in splits if split not in WORLD_SPLITS]:
            msg = f"world has no split {unknown[0]!r}; allowed: {', '.join(WORLD_SPLITS)}"
            raise ValueError(msg)
        if below := {split: count for split, count in splits.items() if count < 0}:
            msg = f"found {below}; allowed: counts from 0"
            raise ValueError(msg)
        return splits


class DemoConfig(PrepConfig):
    """A pass, and what it is tried on: `configs/prep/world.yaml`. Any configuration of a pass is one of these."""

    world: WorldConfig | None = None
    """The images, which `emo prep import world` draws."""
    simulation: SimulationConfig | None = None
    """Who answers at the endpoints, when `emo prep simulate` serves them."""
