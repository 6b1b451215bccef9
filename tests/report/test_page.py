"""`page.json`: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo_lightning.core.records import SchemaError
from emo_lightning.core.tables.table import Cell, Column, Spread, Table
from emo_lightning.report.page import Page, read_page, write_page

VOID = {"meta", "br", "img", "link", "input", "hr"}


def test_a_page_keeps_all_of_a_table(tmp_path: Path) -> None:
    shown = [Column("arm", "arm"), Column("ece", "ECE ↓"), Column("floor", "ECE ↓", quiet=True)]
    rows: list[list[Cell]] = [["base", Spread(4.1, 3.0, 5.5), None], ["ours", Spread(3.0, std=0.5), 7]]
    table = Table(
        "calibration-ece",
        "ECE",
        shown,
        rows,
        "15 bins",
        3,
        row_keys=["base/test", "ours/test"],
        best={(1, 1)},
        lower_is_better={"base/test"},
        quiet_note="nobody looked.",
        groups=[("", 1), ("test", 2)],
        arms_across=True,
        shade={(0, 1): 0.5},
        folded=True,
    )
    write_page(tmp_path, Page("Calibration", tables=[table]))
    assert read_page(tmp_path / "page.json").tables == [table]


def test_a_page_without_keys_still_opens(tmp_path: Path) -> None:
    """As they were written before 0.2.0."""
    body = {"title": "Paths", "tables": [{"columns": ["arm", "chance", "chance"], "rows": [["a", 1, True], ["a", 2, None]]}]}
    (tmp_path / "page.json").write_text(json.dumps(body))
    (table,) = read_page(tmp_path / "page.json").tables
    assert (table.key, table.title, table.column_keys) == ("paths", "Paths", ["arm", "chance", "chance-2"])
    assert (table.row_keys, table.rows[0]) == (["a", "a-2"], ["a", 1, "yes"])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("[]", "the file: found list; expected an object"),
        ("{", "not JSON: Expecting property name"),
        ('{"text": "t"}', "the file: key 'title' is missing; expected figures, notes, tables, text, title"),
        ('{"title": "t", "tables": 3}', "key tables: found int; expected a list"),
        ('{"title": "t", "tables": [{"columns": [1], "rows": []}]}', "key tables[0].columns[0]: found 1; expected a text"),
        ('{"title": "t", "tables": [{"columns": ["x"], "row": []}]}', "key tables[0]: unknown key 'row'; allowed: arms_across"),
        (
            '{"title": "t", "tables": [{"columns": [], "rows": [], "digits": 11}]}',
            "key tables[0].digits: found 11; expected a whole number from 0 to 10",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x"], "rows": [[NaN]]}]}',
            "key tables[0].rows[0][0]: found nan; expected a finite number, a text, null or an object with 'value'",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x"], "rows": [[{"value": 1, "low": "a"}]]}]}',
            "key tables[0].rows[0][0].low: found 'a'; expected a finite number or null",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x"], "rows": [[{"valu": 1}]]}]}',
            "key tables[0].rows[0][0]: unknown key 'valu'; allowed: high, low, std, value",
        ),
        (
            '{"title": "t", "tables": [{"columns": ["x", "x"], "rows": [], "column_keys": ["a", "a"]}]}',
            "key tables[0].column_keys: 1 keys that differ; expected 2, one for each of columns",
        ),
    ],
)
def test_a_page_says_which_key_is_wrong(body: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "page.json").write_text(body)
    with pytest.raises(SchemaError) as error:
        read_page(tmp_path / "page.json")
    assert str(error.value).startswith(f"{tmp_path / 'page.json'}: {expected}")
