"""When attribute guidance helps: Table 6 on held-out combinations, over bases whose captions named the attribute more or less often.

The unit is a world: images, held-out combinations and training of its own. Each world is fine-tuned from every base, so all
comparisons are paired within worlds. Stated before the study was run (docs/attribute-guidance.md):

* Primary: attribute arm minus CES arm for each base, over all worlds of all sizes; paired t-test, Holm over the bases.
* Trend: how much that difference changes from a base whose captions never name the attribute to one whose captions always do: slope
  over the share within each world; t-test of the slopes against zero.
* Secondary: the other pairs of arms for each base (Holm over the bases, each pair on its own), and attribute minus CES for each base and
  size (Holm over all of those).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypedDict

import numpy as np

from emo_lightning.analysis.probe_predictions import evaluated_images
from emo_lightning.analysis.table6 import Summary, summary, table6
from emo_lightning.analysis.table6_paired import holm
from emo_lightning.core.errors import InputError
from emo_lightning.core.intervals import CONFIDENCE_LEVEL, student_margin
from emo_lightning.core.records import SchemaError
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.power import ALPHA, smallest_effect

TABLE6_ARMS = ("base", "ces", "attribute")
"""In the paper's order, the worst first."""

PATH_PLACEHOLDERS = ("{arm}", "{base}", "{images}", "{seed}")
"""Parts of the name of a probe's folder."""

PRIMARY_PAIR = ("ces", "attribute")
COMPARED_PAIRS = (PRIMARY_PAIR, ("base", "ces"), ("base", "attribute"))
EVALUATED_SET = "heldout"


class Contrast(TypedDict):
    """A mean difference in points, over worlds."""

    mean: float
    low: float | None
    """Of the t-interval; None, as `p`, where there is one world or no spread."""
    high: float | None
    sd: float | None
    worlds: int
    p: float | None
    p_holm: float | None


class BaseResult(TypedDict):
    """What came out for one base."""

    base: str
    share: float
    """Of its captions that named the attribute (0–1)."""
    accuracy: dict[str, Summary]
    """Arm -> percent, over all worlds."""
    contrasts: dict[str, Contrast]
    """"second minus first" of each pair, e.g. `attribute-ces`."""
    order: str
    """Arms from worst to best; joined by `<` where the pair differs (Holm), else by `≈`."""


class CellResult(TypedDict):
    """One base and one number of annotated images."""

    base: str
    images: int
    accuracy: dict[str, Summary]
    contrast: Contrast
    """Attribute minus CES."""


class Guidance(TypedDict):
    """The study's result; accuracies in percent, differences in points."""

    bases: list[BaseResult]
    cells: list[CellResult]
    trend: Contrast | None
    """Change of attribute minus CES from share 0 to share 1; None with one base."""
    seen: float | None
    """The difference that the primary test of one base finds with a probability of 80 %, Holm's strictest level, by the largest `sd`
    found; None where there is no spread, or fewer than three worlds."""
    confidence_level: float
    """Of the intervals, as a share."""


def attribute_guidance(probes: str, shares: Mapping[str, float], images: Sequence[int], seeds: Sequence[int]) -> Guidance:
    """Gather the probes of the whole grid and test what was stated.

    Args:
        probes: folder of each probe, with `{arm}`, `{base}`, `{images}` and `{seed}` in it.
        shares: base -> share of its captions that named the attribute (0–1).
        images: numbers of annotated images.
        seeds: of the worlds of each number.

    Raises:
        InputError: the pattern lacks a part; nothing is named, or something twice; a share is no number from 0 to 1.
        MissingFileError: a file of a probe is missing.
        SchemaError: a probe has no accuracy on held-out combinations, or two of a world were evaluated on different images.
    """
    _check_grid(probes, shares, images, seeds)
    for size in images:
        for seed in seeds:
            _check_alike([_folder(probes, arm, base, size, seed) for base in shares for arm in TABLE6_ARMS])
    found = {
        (base, size): {arm: _accuracies(probes, arm, base, size, seeds) for arm in TABLE6_ARMS}
        for base in shares
        for size in images
    }
    over = {base: {arm: np.concatenate([found[base, size][arm] for size in images]) for arm in TABLE6_ARMS} for base in shares}
    contrasts = {pair: _contrasts([over[base][pair[1]] - over[base][pair[0]] for base in shares]) for pair in COMPARED_PAIRS}
    cell_contrasts = _contrasts([values[PRIMARY_PAIR[1]] - values[PRIMARY_PAIR[0]] for values in found.values()])
    spread = max((one["sd"] or 0.0 for one in contrasts[PRIMARY_PAIR]), default=0.0)
    worlds = len(images) * len(seeds)
    return {
        "bases": [
            {
                "base": base,
                "share": share,
                "accuracy": {arm: summary(list(over[base][arm])) for arm in TABLE6_ARMS},
                "contrasts": {f"{b}-{a}": contrasts[a, b][place] for a, b in COMPARED_PAIRS},
                "order": _order(over[base], {pair: contrasts[pair][place] for pair in COMPARED_PAIRS}),
            }
            for place, (base, share) in enumerate(shares.items())
        ],
        "cells": [
            {
                "base": base,
                "images": size,
                "accuracy": {arm: summary(list(values[arm])) for arm in TABLE6_ARMS},
                "contrast": contrast,
            }
            for ((base, size), values), contrast in zip(found.items(), cell_contrasts, strict=True)
        ],
        "trend": _trend(over, shares),
        "seen": smallest_effect(spread, worlds, alpha=ALPHA / len(shares)) if spread > 0 and worlds > 2 else None,
        "confidence_level": CONFIDENCE_LEVEL,
    }


def _check_grid(probes: str, shares: Mapping[str, float], images: Sequence[int], seeds: Sequence[int]) -> None:
    if lacking := [slot for slot in PATH_PLACEHOLDERS if slot not in probes]:
        msg = f"probes: {probes!r} lacks {lacking[0]}; the folder of a probe is named by arm, base, images and seed"
        raise InputError(msg)
    if not (shares and images and seeds):
        msg = f"bases, images and seeds: found {list(shares)}, {list(images)}, {list(seeds)}; expected at least one of each"
        raise InputError(msg)
    for name, values in (("images", images), ("seeds", seeds)):
        if len(set(values)) < len(values):
            msg = f"{name}: found {list(values)}; expected each once, as a world that is counted twice is not two worlds"
            raise InputError(msg)
    for base, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            msg = f"shares: found {share!r} for base {base!r}; expected a number from 0 to 1"
            raise InputError(msg)


def _check_alike(folders: Sequence[Path]) -> None:
    """Refuse a world whose probes were evaluated on different images."""
    first, *others = folders
    images = evaluated_images(first, EVALUATED_SET)
    for folder in others:
        if evaluated_images(folder, EVALUATED_SET) != images:
            msg = (
                f"{folder} and {first} were evaluated on different images of {EVALUATED_SET!r}, or with different emotions; "
                "all bases and arms of a world must meet the same"
            )
            raise SchemaError(msg)


def _folder(probes: str, arm: str, base: str, size: int, seed: int) -> Path:
    # Not by `format`: a path may have other braces in it.
    for slot, value in zip(PATH_PLACEHOLDERS, (arm, base, size, seed), strict=True):
        probes = probes.replace(slot, str(value))
    return Path(probes)


def _accuracies(probes: str, arm: str, base: str, size: int, seeds: Sequence[int]) -> Array:
    folders = [_folder(probes, arm, base, size, seed) for seed in seeds]
    return np.array(table6({arm: folders}, needed=EVALUATED_SET)["arms"][arm][EVALUATED_SET]["accuracy"]["values"])


def _contrasts(differences: Sequence[Array]) -> list[Contrast]:
    """One family, with Holm over all of it: what cannot be tested counts as p = 1, so that the others are not judged more mildly."""
    found = [_contrast(values) for values in differences]
    for one, adjusted in zip(found, holm([1.0 if one["p"] is None else one["p"] for one in found]), strict=True):
        one["p_holm"] = None if one["p"] is None else adjusted
    return found


def _contrast(values: Array) -> Contrast:
    from scipy.stats import t

    mean, worlds = float(values.mean()), len(values)
    sd = float(values.std(ddof=1)) if worlds > 1 else None
    # Differences of two numbers in percent are exact to about 1e-14: what is below is not spread.
    if sd is not None and sd < 1e-9:
        sd = 0.0
    if not sd:
        return {"mean": mean, "low": None, "high": None, "sd": sd, "worlds": worlds, "p": None, "p_holm": None}
    error = sd / math.sqrt(worlds)
    half = student_margin(error, worlds)
    p = 2 * float(t.sf(abs(mean) / error, worlds - 1))
    return {"mean": mean, "low": mean - half, "high": mean + half, "sd": sd, "worlds": worlds, "p": p, "p_holm": None}


def _trend(over: Mapping[str, Mapping[str, Array]], shares: Mapping[str, float]) -> Contrast | None:
    x = np.array(list(shares.values()))
    if not np.ptp(x):
        return None
    gains = np.stack([over[base][PRIMARY_PAIR[1]] - over[base][PRIMARY_PAIR[0]] for base in shares])
    centred = x - x.mean()
    return _contrast(centred @ gains / (centred @ centred))


def _order(accuracy: Mapping[str, Array], contrasts: Mapping[tuple[str, str], Contrast]) -> str:
    ranked = sorted(TABLE6_ARMS, key=lambda arm: float(accuracy[arm].mean()))
    text = ranked[0]
    for lower, higher in pairwise(ranked):
        one = contrasts.get((lower, higher)) or contrasts[higher, lower]
        text += f" {'<' if one['p_holm'] is not None and one['p_holm'] < ALPHA else '≈'} {higher}"
    return text
