"""The few numbers that a reader wants first, as tiles on top of the page; each is found in a table by keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from emo_lightning.analysis.baselines import TEXT_ONLY
from emo_lightning.report.html import seconds
from emo_lightning.report.run_folder import COMPLETE, StageFolder
from emo_lightning.report.table import Cell, Spread, Table, cell_text, number_of, with_minus


class Fact(NamedTuple):
    """A tile."""

    title: str
    value: str
    about: str


def facts_of(tables: Sequence[Table], stages: Sequence[StageFolder]) -> list[Fact]:
    """The tiles of one run: of its tables, in their order, and how far its stages are."""
    facts = [fact for table in tables if table.key in TILES for fact in TILES[table.key](table)]
    # The stage that writes this page is still running.
    counted = [stage for stage in stages if stage.kind != "report"]
    spent = sum(s for stage in counted if isinstance(s := stage.info.get("seconds"), int | float))
    done = sum(stage.info.get("status") == COMPLETE for stage in counted)
    if counted:
        facts.append(Fact("Stages", f"{done} of {len(counted)} complete", f"{seconds(spent)} before this page"))
    return facts


def _table5(table: Table) -> Iterator[Fact]:
    """The best arm's number in two rows of Table 5, beside the best answer that sees neither image nor annotation."""
    for title, key in (("Emotion accuracy", "emotion_acc"), ("Box IoU", "bbox_iou")):
        row = table.rows[table.row_keys.index(key)]
        known = [(value, m) for m, cell in enumerate(row) if (value := number_of(cell)) is not None]
        arms = [(value, m) for value, m in known if m not in table.quiet]
        floors = [value for value, m in known if m in table.quiet and table.columns[m].key != TEXT_ONLY]
        if arms:
            value, best = max(arms)
            beside = f"; without looking: {max(floors):.2f}" if floors else ""
            yield Fact(title, f"{value:.2f} %", f"{table.columns[best].title}, strict{_about(row[best])}{beside}")


def _table6(table: Table) -> Iterator[Fact]:
    arms = [(value, arm) for arm in table.row_keys if (value := number_of(table.cell(arm, "accuracy"))) is not None]
    if arms:
        value, arm = max(arms, key=lambda item: item[0])
        about = f"{arm}, best of {len(arms)} arms{_about(table.cell(arm, 'accuracy'))}; seeds: {table.cell(arm, 'seeds')}"
        yield Fact("Linear probe, accuracy", f"{value:.2f} %", about)


def _cross_dataset(table: Table) -> Iterator[Fact]:
    """The largest loss of any arm on any set out of its domain."""
    column = "worst" if "worst" in table.column_keys else "worst set"  # A `page.json` without keys, made before 0.2.0.
    if column not in table.column_keys:
        return
    # `emotion6 -15.0`
    worst = [(arm, str(cell).rpartition(" ")) for arm in table.row_keys if (cell := table.cell(arm, column)) is not None]
    if worst:
        arm, (where, _, loss) = min(worst, key=lambda item: float(item[1][2]))
        value = float(loss)
        title = "Largest loss out of the domain" if value < 0 else "Smallest gain out of the domain"
        yield Fact(title, with_minus(f"{value:+.1f} points"), f"{arm} on {where}, against the untuned base")


def _about(cell: Cell) -> str:
    text = cell_text(cell)
    return f", {text[text.index(' ') + 1 :]}" if isinstance(cell, Spread) and " " in text else ""


TILES: dict[str, Callable[[Table], Iterator[Fact]]] = {
    "table5-strict": _table5,
    "table6-test": _table6,
    "cross-dataset-accuracy": _cross_dataset,
    "accuracy": _cross_dataset,
}
"""Key of a table -> the tiles that are made of it."""
