"""What `attribute_guidance` found, as tables and notes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from emo_lightning.core.intervals import confidence_level
from emo_lightning.core.tables.table import Cell, Spread, Table, columns
from emo_lightning.report.page import Page

if TYPE_CHECKING:
    from emo_lightning.analysis.attribute_guidance import Contrast, Guidance
    from emo_lightning.analysis.table6 import Summary

ARM_TITLES = {"base": "base", "ces": "CES", "attribute": "attribute"}
_PAIRS = {"attribute-ces": "attribute − CES", "ces-base": "CES − base", "attribute-base": "attribute − base"}


def guidance_page(result: Guidance) -> Page:
    """What `attribute_guidance` returned, as tables for the terminal and the report."""
    page = Page(
        "When attribute guidance helps",
        "Accuracy of a linear probe on frozen DES, on combinations never trained on, in percent; differences in points. Each world has images, "
        f"held-out combinations and trainings of its own, and meets every base. Intervals hold {100 * confidence_level(result):g} %.",
    )
    page.tables = [_by_base(result), _other_pairs(result), _by_size(result)]
    if trend := result["trend"]:
        page.notes.append(
            f"From captions that never name the attribute to ones that always do, attribute − CES changes by {_words(trend)}."
        )
    if result["seen"] is not None:
        page.notes.append(
            f"A true difference of {result['seen']:.1f} points or more would be found with a probability of at least 80 % for each base."
        )
    return page


def _by_base(result: Guidance) -> Table:
    rows: list[list[Cell]] = []
    for one in result["bases"]:
        gain = one["contrasts"]["attribute-ces"]
        rows.append([f"{100 * one['share']:g} %", *_accuracies(one["accuracy"]), _spread(gain), gain["p_holm"], one["order"]])
    shown = columns(
        ("share", "captions that name it"),
        *ARM_TITLES.items(),
        ("gain", "attribute − CES"),
        ("p_holm", "p (Holm)"),
        ("order", "order"),
    )
    note = (
        "Arms: mean ± standard deviation over worlds. The difference is paired within worlds, p by a t-test. In the order, < stands between "
        "neighbours that differ at 5 % (Holm), ≈ between those that do not."
    )
    keys = [one["base"] for one in result["bases"]]
    return Table("guidance-bases", "Table 6 on held-out combinations, by base", shown, rows, note, row_keys=keys)


def _other_pairs(result: Guidance) -> Table:
    rows: list[list[Cell]] = []
    keys: list[str] = []
    for one in result["bases"]:
        for pair, contrast in one["contrasts"].items():
            rows.append(
                [
                    f"{100 * one['share']:g} %",
                    _PAIRS[pair],
                    _spread(contrast),
                    contrast["sd"],
                    contrast["p"],
                    contrast["p_holm"],
                ]
            )
            keys.append(f"{one['base']}/{pair}")
    shown = columns(
        ("share", "captions that name it"),
        ("pair", "pair"),
        ("difference", "difference"),
        ("sd", "SD over worlds"),
        ("p", "p"),
        ("p_holm", "p (Holm)"),
    )
    return Table("guidance-pairs", "All pairs of arms", shown, rows, digits=3, row_keys=keys, folded=True)


def _by_size(result: Guidance) -> Table:
    shares = {one["base"]: one["share"] for one in result["bases"]}
    rows: list[list[Cell]] = [
        [
            f"{100 * shares[one['base']]:g} %",
            f"{one['images']:,}",
            *_accuracies(one["accuracy"]),
            _spread(one["contrast"]),
            one["contrast"]["p_holm"],
        ]
        for one in result["cells"]
    ]
    shown = columns(
        ("share", "captions that name it"),
        ("images", "annotated images"),
        *ARM_TITLES.items(),
        ("gain", "attribute − CES"),
        ("p_holm", "p (Holm)"),
    )
    keys = [f"{one['base']}/{one['images']}" for one in result["cells"]]
    return Table("guidance-sizes", "By number of annotated images", shown, rows, row_keys=keys)


def _accuracies(found: Mapping[str, Summary]) -> list[Cell]:
    return [Spread(found[arm]["mean"], std=found[arm]["std"]) for arm in ARM_TITLES]


def _spread(one: Contrast) -> Spread:
    return Spread(one["mean"], one["low"], one["high"])


def _words(one: Contrast) -> str:
    text = f"{one['mean']:+.1f} points"
    if one["low"] is None or one["high"] is None or one["p"] is None:
        return text
    return f"{text} [{one['low']:+.1f}, {one['high']:+.1f}], p = {one['p']:.2g}"
