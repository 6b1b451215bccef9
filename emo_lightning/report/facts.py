"""The few numbers that a reader wants first, as tiles on top of the page; each is found in a table by keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from emo_lightning.core.tables.table import Cell, Spread, Table, cell_text, number_of, with_minus
from emo_lightning.report.html import seconds
from emo_lightning.report.run_folder import COMPLETE, StageFolder
from emo_lightning.report.tables.overview import NO_ARM, SPLITS_TABLE_KEY, arms_of


class Fact(NamedTuple):
    """A tile."""

    title: str
    value: str
    about: str


def facts_of(tables: Sequence[Table], stages: Sequence[StageFolder]) -> list[Fact]:
    """The tiles of one run: of its tables, in their order, and how far its stages are."""
    by_key = {table.key: table for table in tables}
    facts = [fact for table in tables if table.key in TILES for fact in TILES[table.key](table, by_key)]
    # The stage that writes this page is still running.
    counted = [stage for stage in stages if stage.kind != "report"]
    spent = sum(s for stage in counted if isinstance(s := stage.info.get("seconds"), int | float))
    done = sum(stage.info.get("status") == COMPLETE for stage in counted)
    if counted:
        facts.append(Fact("Stages", f"{done} of {len(counted)} complete", f"{seconds(spent)} before this page"))
    return facts


def _table5(table: Table, others: Mapping[str, Table]) -> Iterator[Fact]:
    """The best arm's number in two rows of Table 5, beside the best answer that is given without looking; emotions also by set."""
    for title, key in (("Emotion accuracy", "emotion_acc"), ("Box IoU", "bbox_iou")):
        if key not in table.column_keys:
            continue
        arms = arms_of(table)
        known = [(value, arm) for arm in arms if (value := number_of(table.cell(arm, key))) is not None]
        if known:
            value, best = max(known)
            floor = number_of(table.cell("blind", key)) if "blind" in table.row_keys else None
            top = number_of(table.cell("ceiling", key)) if "ceiling" in table.row_keys else None
            beside = "" if floor is None else f"; without looking: {floor:.1f}"
            beside += "" if top is None else f"; from the true triplet: {top:.1f}"
            splits = others.get(SPLITS_TABLE_KEY)
            if splits and key == "emotion_acc" and best in splits.row_keys:
                apart = [(name, number_of(splits.cell(best, name))) for name in splits.column_keys[1:]]
                beside += "".join(f"; {name}: {of_set:.1f}" for name, of_set in apart if of_set is not None)
            yield Fact(title, f"{value:.1f} %", f"{_ahead(table, key)}{best}{_about(table.cell(best, key))}{beside}")


def _ahead(table: Table, key: str) -> str:
    """Whether the best arm is ahead of the others, as far as the intervals say; empty where there is one arm alone."""
    leader = table.cell("ahead", key) if "ahead" in table.row_keys else None
    return "" if leader is None else "no arm is ahead; best: " if leader == NO_ARM else "ahead: "


def _table6(table: Table, others: Mapping[str, Table]) -> Iterator[Fact]:
    """The best probe on the test set, beside what the true triplet tells of the same set."""
    key = "test-accuracy"
    known = [
        (value, arm)
        for arm in arms_of(table)
        if key in table.column_keys and (value := number_of(table.cell(arm, key))) is not None
    ]
    if known:
        value, arm = max(known, key=lambda item: item[0])
        beside, splits = "", others.get(SPLITS_TABLE_KEY)
        if splits and "ceiling" in splits.row_keys and "test" in splits.column_keys:
            top = number_of(splits.cell("ceiling", "test"))
            beside = "" if top is None else f"; from the true triplet: {top:.1f}"
        yield Fact(
            "Linear probe, accuracy on test",
            f"{value:.1f} %",
            f"{_ahead(table, key)}{arm}{_about(table.cell(arm, key))}{beside}",
        )


def _cross_dataset(table: Table, _others: Mapping[str, Table]) -> Iterator[Fact]:
    """The largest loss of any arm on any set out of its domain: where it has lost most, and how much, in two columns."""
    if not {"worst", "worst-gain"} <= set(table.column_keys):
        # A `page.json` of before 0.3 has the number in a text.
        return
    worst = [
        (value, arm, cell_text(table.cell(arm, "worst"), 1))
        for arm in table.row_keys
        if (value := number_of(table.cell(arm, "worst-gain"))) is not None
    ]
    if worst:
        value, arm, where = min(worst)
        title = "Largest loss out of the domain" if value < 0 else "Smallest gain out of the domain"
        yield Fact(title, with_minus(f"{value:+.1f} points"), f"{arm} on {where}, against the untuned base")


def _about(cell: Cell) -> str:
    text = cell_text(cell, 1)
    return f", {text[text.index(' ') + 1 :]}" if isinstance(cell, Spread) and " " in text else ""


TILES: dict[str, Callable[[Table, Mapping[str, Table]], Iterator[Fact]]] = {
    "overview-table5": _table5,
    "overview-table6": _table6,
    "cross-dataset-accuracy": _cross_dataset,
    "accuracy": _cross_dataset,
}
"""Key of a table -> the tiles that are made of it; other tables, by key, stand beside."""
