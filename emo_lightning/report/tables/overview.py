"""What a reader wants first of Tables 5 and 6: arms down, a few metrics across, and whether any arm is ahead. Narrow enough for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from emo_lightning.analysis.baselines import TRIPLET_ONLY, UPPER_READINGS
from emo_lightning.core.tables.table import Cell, Result, Spread, Table, best_of, columns, mean_over_seeds, number_of, spread
from emo_lightning.report.tables.table6 import SET_TITLES

OVERVIEW_WIDTH = 80
"""Characters of a terminal that these tables are made for."""

OVERVIEW_ROWS = {
    "emotion_acc": "Emotion",
    "intensity_kappa": "Intensity",
    "bbox_iou": "Box",
    "subject": "Subject",
    "triplet": "Triplet",
}
"""Row of Table 5, strict mode -> how the overview calls it."""

BLIND_TITLE, CEILING_TITLE, AHEAD_TITLE, NO_ARM = "without looking", "from the true triplet", "ahead of all others", "no arm"
"""Titles of the last rows, and what stands where intervals leave no arm ahead."""

SPLITS_TABLE_KEY = "overview-table5-splits"
"""Key of the table of emotions by set."""

_NOTE = (
    "Times 100, {images} images; in brackets: 95 % intervals. Emotion, subject, triplet (background, attribute and subject): share of images in "
    "which it is named rightly. Intensity: agreement on the scale of 1 to 10 (quadratic kappa; chance is 0). Box: overlap with the true box "
    "(IoU). Without looking: the best answer that needs no image, such as the same words and the same box for all."
)
_CEILING_NOTE = (
    " From the true triplet: what a linear model says that is told background, attribute and subject and learned from the same labels, mistakes "
    "included: about what a model reaches that names all three without a mistake."
)


_BESIDE = ("blind", "ceiling", "ahead")
"""Keys of the rows that stand below the arms."""


def arms_of(table: Table) -> list[str]:
    """Keys of the rows of an overview that are arms."""
    return [key for key in table.row_keys if key not in _BESIDE]


def overview_tables(found: Result) -> Iterator[Table]:
    """Of a `table5.json`: every arm, the best answer given without looking, what the true triplet tells, and the arm that is ahead."""
    keys = [key for key in OVERVIEW_ROWS if any(column["strict"].get(key) is not None for column in found["arms"].values())]
    if not keys:
        return
    rows: list[list[Cell]] = [[arm, *(scored(column, key) for key in keys)] for arm, column in found["arms"].items()]
    best = {(n, 1 + m) for m in range(len(keys)) for n in best_of([row[1 + m] for row in rows])}
    names = list(found["arms"])
    known = _add_readings(rows, names, [best_blind(found, key) for key in keys], [_ceiling(found, key) for key in keys])
    if len(found["arms"]) > 1:
        names.append("ahead")
        rows.append([AHEAD_TITLE, *(_leader(found, key) for key in keys)])
    yield Table(
        "overview-table5",
        "What each arm says of an image",
        columns(("arm", "Arm"), *((key, OVERVIEW_ROWS[key]) for key in keys)),
        rows,
        _NOTE.format(images=found["references"]) + (_CEILING_NOTE if known else ""),
        digits=0,
        row_keys=names,
        best=best,
        name="overview",
    )
    yield from _by_split(found)


def _by_split(found: Result) -> Iterator[Table]:
    """Emotions on every set alone: what an arm has learned of what it was trained on is not what it makes of the rest."""
    key = "emotion_acc"
    splits = found.get("by_split") or {}
    if not any(column["strict"].get(key) is not None for one in splits.values() for column in one["arms"].values()):
        return
    rows: list[list[Cell]] = [[arm, *(scored(one["arms"][arm], key) for one in splits.values())] for arm in found["arms"]]
    names = list(found["arms"])
    best = {(n, 1 + m) for m in range(len(splits)) for n in best_of([row[1 + m] for row in rows])}
    _add_readings(
        rows, names, [best_blind(one, key) for one in splits.values()], [_ceiling(one, key) for one in splits.values()]
    )
    known = [name for name in SET_TITLES if name in splits]
    yield Table(
        SPLITS_TABLE_KEY,
        "Emotions that are said rightly, by set",
        columns(("arm", "Arm"), *((split, f"{split} ({one['references']:,} images)") for split, one in splits.items())),
        rows,
        " ".join(["Times 100; in brackets: 95 % intervals.", *([_sets(known)] if known else [])]),
        digits=0,
        row_keys=names,
        best=best,
        name="overview-splits",
    )


def _add_readings(rows: list[list[Cell]], names: list[str], floors: list[Cell], ceiling: list[Cell]) -> bool:
    """Put below the arms what is reached without looking, and from the true triplet, where they are known; whether the latter is."""
    for key, title, cells in (("blind", BLIND_TITLE, floors), ("ceiling", CEILING_TITLE, ceiling)):
        if any(cell is not None for cell in cells):
            rows.append([title, *cells])
            names.append(key)
    return "ceiling" in names


def _ceiling(found: Result, key: str) -> Cell:
    reading = found["baselines"].get(TRIPLET_ONLY)
    return None if reading is None else scored(reading, key)


def overview_table6(found: Result) -> Iterator[Table]:
    """Of a `table6.json`: accuracy of the probe on every set, and the arm that is ahead."""
    sets = [name for name in SET_TITLES if any(name in arm for arm in found["arms"].values())]
    if not sets:
        return
    metrics = {"accuracy": "accuracy", "f1": "F1"}
    rows: list[list[Cell]] = [
        [arm, *(mean_over_seeds(measured[name][metric]) if name in measured else None for name in sets for metric in metrics)]
        for arm, measured in found["arms"].items()
    ]
    best = {(n, 1 + m) for m in range(len(sets) * len(metrics)) for n in best_of([row[1 + m] for row in rows])}
    names = list(found["arms"])
    leaders = [probe_ahead(found, name) for name in sets]
    known = any(leader is not None for leader in leaders)
    if known:
        rows.append(
            [AHEAD_TITLE, *(cell for leader in leaders for cell in (None if leader is None else leader or NO_ARM, None))]
        )
    yield Table(
        "overview-table6",
        "What a linear probe reads off each arm's embedding",
        columns(
            ("arm", "Arm"), *((f"{name}-{metric}", f"{name}: {title}") for name in sets for metric, title in metrics.items())
        ),
        rows,
        "The probe is a linear classifier on the frozen embedding. Percent of the emotions that it has right (accuracy), and F1, the mean over "
        f"the emotions. {_sets(sets)}",
        digits=1,
        row_keys=[*names, *(["ahead"] if known else [])],
        best=best,
        name="overview",
    )


def _leader(found: Result, key: str) -> str | None:
    """The arm whose differences to all others do not touch 0; of a run that did not measure them, whose interval lies above all others."""
    if ahead := found.get("ahead"):
        return str(ahead["strict"].get(key) or NO_ARM)
    cells = {arm: scored(column, key) for arm, column in found["arms"].items()}
    known = {arm: cell for arm, cell in cells.items() if isinstance(cell, Spread) and cell.low is not None}
    if len(known) < 2:
        return None
    best = max(known, key=lambda arm: known[arm].value or 0)
    others = [cell.high or 0 for arm, cell in known.items() if arm != best]
    return best if (known[best].low or 0) > max(others) else NO_ARM


def probe_ahead(found: Result, name: str) -> str | None:
    """The arm of Table 6 whose paired differences in accuracy to all others have intervals above 0.

    Args:
        found: a `table6.json`.
        name: of the set.

    Returns:
        "" where no arm is ahead, None where that was not measured.
    """
    pairs = ((found.get("paired") or {}).get("sets") or {}).get(name, {}).get("pairs")
    if not pairs:
        return None
    arms = list(dict.fromkeys(arm for pair in pairs for arm in (pair["a"], pair["b"])))
    for arm in arms:
        # Second minus first; of the arm's own side.
        ends = [
            [(1 if pair["b"] == arm else -1) * end for end in pair["accuracy"]["images"]]
            for pair in pairs
            if arm in (pair["a"], pair["b"])
        ]
        if len(ends) == len(arms) - 1 and all(min(own) > 0 for own in ends):
            return str(arm)
    return ""


def _sets(sets: Sequence[str]) -> str:
    return "; ".join(f"{name}: {SET_TITLES[name]}" for name in sets).capitalize() + "."


def scored(column: Result, key: str) -> Cell:
    """A row of a column of `table5.json`, strict mode, with its interval."""
    return spread(column["strict"].get(key), ((column.get("intervals") or {}).get("strict") or {}).get(key))


def best_blind(found: Result, key: str) -> Cell:
    """The best answer given without looking in one row."""
    cells = [scored(column, key) for name, column in found["baselines"].items() if name not in UPPER_READINGS]
    known = [(value, cell) for cell in cells if (value := number_of(cell)) is not None]
    return max(known, key=lambda one: one[0])[1] if known else None
