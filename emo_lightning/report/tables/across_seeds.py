"""What `across_seeds` found, as tables and notes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from emo_lightning.core.tables.table import Cell, Spread, Table, columns, spread
from emo_lightning.metrics.bootstrap import MIN_IMAGES_FOR_SOUND_INTERVAL
from emo_lightning.report.page import Page

if TYPE_CHECKING:
    from emo_lightning.analysis.across_seeds import AcrossSeeds


def across_seeds_page(result: AcrossSeeds) -> Page:
    """What `across_seeds` returned, as tables for the terminal and the report."""
    sets = [(name, f"{name}, n={images:,}") for name, images in result["images"].items()]

    def means(metric: Literal["accuracy", "most_said"]) -> list[list[Cell]]:
        return [
            [arm, *(Spread(found[name][metric]["mean"], std=found[name][metric]["std"]) for name, _ in sets)]
            for arm, found in result["arms"].items()
        ]

    level = f"{100 * result['confidence_level']:g} %"
    tables = [
        Table(
            "across-seeds-accuracy",
            "Accuracy (%)",
            columns("arm", *sets),
            means("accuracy"),
            f"Mean ± standard deviation over {result['seeds']} seeds; an arm without one is a single model.",
            1,
        )
    ]
    for other in result["against"]:
        tables += _gains(result, other, sets, level)
    tables.append(
        Table(
            "across-seeds-most-said",
            "Share of the class that is answered most often (%)",
            columns("arm", *sets),
            means("most_said"),
            "A model that has collapsed onto one answer has 100.",
            1,
        )
    )
    about = (
        f"Every arm on every set over {result['seeds']} seeds. Runs of one seed are compared with each other: they began at the same model "
        "and saw the same data."
    )
    return Page("Across data sets, over seeds", about, tables, notes=list(_notes(result)))


def _gains(result: AcrossSeeds, other: str, sets: list[tuple[str, str]], level: str) -> Iterator[Table]:
    """By images, and by seeds."""
    rows = [(arm, found) for arm, found in result["arms"].items() if arm != other]
    over_images: list[list[Cell]] = [
        [arm, *(spread(gain["difference"], gain["images"]) for gain in (found[name]["gains"][other] for name, _ in sets))]
        for arm, found in rows
    ]
    yield Table(
        f"across-seeds-gain-{other}",
        f"Against {other} (points)",
        columns("arm", *sets),
        over_images,
        f"Mean over the seeds, paired on the same images; {level} bootstrap intervals over images, these trainings given.",
        1,
    )
    if result["seeds"] == 1:
        return
    over_seeds: list[list[Cell]] = []
    keys: list[str] = []
    for arm, found in rows:
        for name, _ in sets:
            gain = found[name]["gains"][other]
            each = ", ".join(f"{value:+.1f}" for value in gain["values"])
            over_seeds.append([arm, name, spread(gain["difference"], gain["seeds"]), each])
            keys.append(f"{arm}/{name}")
    yield Table(
        f"across-seeds-each-{other}",
        f"Against {other}, each seed (points)",
        columns("arm", "set", ("gain", "gain"), ("each", "each seed")),
        over_seeds,
        f"{level} intervals over seeds by Student's t: what another training would do. With few seeds they are wide.",
        1,
        row_keys=keys,
    )


def _notes(result: AcrossSeeds) -> Iterator[str]:
    if result["seeds"] == 1:
        yield "One seed: what another training would do is not known"
    for name, images in result["images"].items():
        if images < MIN_IMAGES_FOR_SOUND_INTERVAL:
            yield f"{name}: {images} images are too few for intervals over images"
