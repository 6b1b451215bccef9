"""What must be read before any number: trainings that have hardly begun, few images, arms that all do the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from emo_lightning.report.table import Result

FEW_STEPS = 100
"""Optimiser steps below which a training has hardly begun."""

FEW_IMAGES = 100
"""Images below which an interval of a share is about ten points wide to either side, and more."""


def few_steps(steps: Mapping[str, int]) -> Iterator[str]:
    """One note for all trainings with few steps.

    Args:
        steps: stage -> optimiser steps.
    """
    if few := {stage: count for stage, count in steps.items() if count < FEW_STEPS}:
        listed = ", ".join(f"{stage} {count}" for stage, count in few.items())
        yield (
            f"a small run: fewer than {FEW_STEPS} optimiser steps in {len(few)} of {len(steps)} trainings ({listed}). They have hardly begun, "
            "and their numbers say little of what is compared"
        )


def few_images(stage: str, images: int) -> Iterator[str]:
    """A note where few images were scored; of one alone `kinds` says more."""
    if 2 <= images < FEW_IMAGES:
        reach = 100 * 1.96 * (0.25 / images) ** 0.5
        yield f"stage {stage!r}: {images} images were scored: a share of them is known to about ±{reach:.0f} points, and no better"


def equal_arms(stage: str, arms: Mapping[str, object]) -> Iterator[str]:
    """A note where several arms have the same numbers everywhere.

    Args:
        stage: its name.
        arms: arm -> everything that was measured of it.
    """
    measured = list(arms.values())
    if len(measured) > 1 and all(one == measured[0] for one in measured):
        yield f"stage {stage!r}: all {len(measured)} arms have the same numbers; they may be one model, or all say the same of every image"


def of_table5(stage: str, found: Result) -> Sequence[str]:
    """The notes of a `table5.json`."""
    arms = {arm: (column["paper"], column["strict"]) for arm, column in found["arms"].items()}
    return [*few_images(stage, found["references"]), *equal_arms(stage, arms)]


def of_table6(stage: str, found: Result) -> Sequence[str]:
    """The notes of a `table6.json`."""
    return list(equal_arms(stage, found["arms"]))
