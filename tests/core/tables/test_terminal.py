"""Tables in a terminal: whatever its width, no figure and no word is cut."""

from __future__ import annotations

import re

import pytest
from rich.table import Table as RichTable

from emo_lightning.core.console import Console
from emo_lightning.core.tables.table import Cell, Spread, Table, columns
from emo_lightning.core.tables.terminal import fitted, show

COLUMNS = ("Metric", "predict-attribute", "predict-ces", "constant, mean box", "no emotion")
ROWS: list[list[Cell]] = [
    ["BBox IoU ↑", Spread(48.02, 46.5, 49.5), Spread(43.61, std=2.51), Spread(49.68, 48.4, 51.0), -3.1],
    ["Intensity kappa ↑", "not computed", None, "joy = amusement, awe, contentment; anger by name", 1234],
]


def printed(width: int) -> list[str]:
    table = Table("t", "Table 5", columns(*COLUMNS), ROWS, "what it means")
    console = Console(width=width, record=True, file=open("/dev/null", "w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    show([table], console)
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_nothing_is_cut(width: int) -> None:
    lines = printed(width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert "…" not in text
    for whole in ("[46.50, 49.50]", "[48.40, 51.00]", "43.61 ± 2.51", "1,234", "-3.10", "contentment;", "attribute", "48.02"):
        assert whole in text, whole
    words = set(re.findall(r"[^\s│┃]+", text))
    assert {
        word for row in (COLUMNS, *ROWS) for cell in row if isinstance(cell, str) for word in re.findall(r"[a-z]{4,}", cell)
    } <= {part for word in words for part in re.findall(r"[a-z]{4,}", word)}


def test_what_is_too_wide_goes_on_in_another_table_with_the_same_rows() -> None:
    assert sum("Metric" in line for line in printed(200)) == 1
    lines = printed(40)
    tables = sum("Metric" in line for line in lines)
    assert tables > 1
    assert sum("BBox" in line for line in lines) == tables
    assert sum("what it means" in line for line in lines) == 1
    assert f"(1 of {tables})" in "\n".join(lines)


def test_a_table_that_goes_on_names_its_rows_by_as_many_columns_as_it_takes() -> None:
    table = RichTable()
    for name in ("arm", "set", "accuracy", "confidence", "calibration"):
        table.add_column(name)
    for arm in ("base", "hard"):
        for name in ("test", "dusk"):
            table.add_row(arm, name, "12.34", "23.45", "34.56")
    parts = fitted(table, 40)
    assert len(parts) > 1
    for part in parts:
        assert [str(column.header) for column in part.columns[:2]] == ["arm", "set"]
        assert all(column.width for column in part.columns)
    assert [str(c.header) for part in parts for c in part.columns[2:]] == ["accuracy", "confidence", "calibration"]
