from __future__ import annotations

from emo_lightning.analysis.table5_rows import MODES, ROWS
from emo_lightning.core.tables.table import Spread
from emo_lightning.report.tables.table5 import table5_tables


def column(value: float | None, interval: list[float] | None = None) -> dict[str, object]:
    """A column of Table 5 with one value everywhere."""
    modes: dict[str, object] = {mode: {row.key: value for row in ROWS[mode]} for mode in MODES}
    return {**modes, "intervals": {mode: {row.key: interval for row in ROWS[mode]} for mode in MODES}}


def test_table5_marks_the_best_arm_and_never_a_baseline() -> None:
    found = {
        "arms": {"a": column(10.0, [5.0, 15.0]), "b": column(20.0), "c": column(None)},
        "baselines": {"constant": column(90.0)},
        "split": "test",
        "references": 3,
        "baseline_source": "x",
        "definition": "d" * 64,
    }
    paper, strict = table5_tables(found)
    assert paper.best == {(n, 2) for n in range(len(paper.rows))}
    failures = next(n for n, row in enumerate(strict.rows) if row[0] == "Parse failures ↓")
    assert (failures, 1) in strict.best
    assert strict.quiet == {4}
    assert strict.rows[0][1:] == [Spread(10.0, 5.0, 15.0), 20.0, None, 90.0]
