"""What must be read before any number: trainings that have hardly begun, few images, arms that all do the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from emo_lightning.core.tables.table import Result

FEW_STEPS = 100
"""Optimiser steps below which a training has hardly begun."""

NAMED = 6
"""Trainings that a note names; of more it says how many."""

FEW_IMAGES = 100
"""Images below which an interval of a share is about ten points wide to either side, and more."""


def few_steps(steps: Mapping[str, int]) -> Iterator[str]:
    """One note for all trainings with few steps.

    Args:
        steps: stage -> optimiser steps.
    """
    if few := {stage: count for stage, count in steps.items() if count < FEW_STEPS}:
        listed = ", ".join(f"{stage} {count}" for stage, count in list(few.items())[:NAMED]) + (
            ", …" if len(few) > NAMED else ""
        )
        yield (
            f"a small run: fewer than {FEW_STEPS} optimiser steps in {len(few)} of {len(steps)} trainings ({listed}). They have hardly begun, "
            "and their numbers say little of what is compared"
        )


def few_images(where: str, images: int) -> Iterator[str]:
    """A note where few images were scored; of one alone `kinds` says more."""
    if 2 <= images < FEW_IMAGES:
        reach = 100 * 1.96 * (0.25 / images) ** 0.5
        yield f"{where}: {images} images were scored: a share of them is known to about ±{reach:.0f} points, and no better"


def equal_arms(stage: str, arms: Mapping[str, object]) -> Iterator[str]:
    """A note for each group of arms with the same numbers everywhere.

    Args:
        stage: its name.
        arms: arm -> everything that was measured of it.
    """
    groups: list[list[str]] = []
    for arm, measured in arms.items():
        same = next((group for group in groups if arms[group[0]] == measured), None)
        if same is None:
            groups.append([arm])
        else:
            same.append(arm)
    for group in groups:
        if len(group) > 1:
            which = f"all {len(group)} arms" if len(group) == len(arms) else f"arms {', '.join(group)}"
            yield f"stage {stage!r}: {which} have the same numbers; they may be one model, or all say the same of every image"


def of_table5(stage: str, found: Result) -> Sequence[str]:
    """The notes of a `table5.json`."""
    arms = {arm: (column["paper"], column["strict"]) for arm, column in found["arms"].items()}
    return [*few_images(f"stage {stage!r}", found["references"]), *equal_arms(stage, arms)]


def of_table6(stage: str, found: Result) -> Sequence[str]:
    """The notes of a `table6.json`; images were counted where arms were compared in pairs."""
    sets = (found.get("paired") or {}).get("sets") or {}
    few = (note for name, one in sets.items() for note in few_images(f"stage {stage!r}, set {name!r}", one["images"]))
    return [*few, *equal_arms(stage, found["arms"])]
