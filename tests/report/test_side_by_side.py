from __future__ import annotations

from dataclasses import replace

from emo_lightning.core.tables.table import Cell, Table, columns
from emo_lightning.report.side_by_side import side_by_side
from tests.core.tables.given import SOURCE


def test_side_by_side_joins_what_differs() -> None:
    one = Table("t", "T", columns("arm", "x", "only one"), [["base", 1.0, 5.0], ["gone", 2.0, 5.0]], sources=[SOURCE])
    two = Table("t", "T", columns("arm", "x", "y"), [["base", 4.0, 7.0], ["new", 3.0, 8.0]], sources=[SOURCE])
    lone = Table("u", "T", columns("arm", "x"), [["base", 1.0]], sources=[SOURCE])
    joined, change = side_by_side([("A", [one, lone]), ("B", [two])])
    assert [column.title for column in joined.columns] == ["arm", "Run", "x", "only one", "y"]
    assert joined.rows[:2] == [["base", "A", 1.0, 5.0, None], ["base", "B", 4.0, None, 7.0]]
    assert change.rows == [["base", "B", "+3.00", None]]
    assert len(joined.sources) == len(change.sources) == 2
    assert len(side_by_side([("A", [one]), ("B", [one])])) == 1, "no table of changes where nothing changed"


def test_side_by_side_goes_by_keys() -> None:
    """Titles may be worded anew; rows and columns of one name are told apart, and a row is compared with its own."""
    rows: list[list[Cell]] = [["base", "test", 1.0, 9.0], ["base", "dusk", 5.0, 9.0]]
    shown = columns("arm", "set", ("x", "ECE"), ("chance", "ECE"))
    one = Table(
        "calibration-ece", "T, 24 images", shown, rows, "15 bins", row_keys=["base/test", "base/dusk"], sources=[SOURCE]
    )
    other = replace(one, title="T, 30 images", rows=[["base", "test", 1.5, 9.0], ["base", "dusk", 5.0, 9.0]])
    joined, change = side_by_side([("A", [one]), ("B", [other])])
    assert joined.note == "A: T, 24 images. 15 bins B: T, 30 images. 15 bins"
    assert joined.column_keys == ["arm", "run", "set", "x", "chance"]
    assert change.rows == [["base", "B", "test", "+0.50", "+0.00"], ["base", "B", "dusk", "+0.00", "+0.00"]]
    assert side_by_side([("A", [one]), ("B", [replace(one, key="other")])]) == []
