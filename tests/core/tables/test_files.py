from __future__ import annotations

import csv
from pathlib import Path

from emo_lightning.core.tables.files import write_beside
from emo_lightning.core.tables.table import Table, columns


def test_each_table_stands_beside_what_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "kept.json").write_text("{}")
    full = Table("set/one", "One", columns("name", "n"), [["a_b", 3]])
    empty = Table("two", "Two", columns("name", "n"), [])
    write_beside(tmp_path, "all", [full, empty], ["1 < 2"])
    assert {p.name for p in tmp_path.iterdir()} == {
        "kept.json",
        "all.md",
        "set-one.tex",
        "set-one.csv",
        "two.tex",
        "two.csv",
    }
    text = (tmp_path / "all.md").read_text()
    assert "| a\\_b | 3 |" in text
    assert "Two" not in text
    assert text.endswith("\n- 1 \\< 2\n")
    assert "\\label{tab:set-one}" in (tmp_path / "set-one.tex").read_text()
    assert list(csv.DictReader((tmp_path / "two.csv").read_text().splitlines())) == []
