from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.core.tables.table import Result, Table, columns
from emo_lightning.report.build import build_report
from emo_lightning.report.kinds import KINDS, Kind
from tests.made import book
from tests.report.pages import read


def test_a_map_to_explore_takes_the_place_of_the_still_one(run: Path) -> None:
    book(run / "mds", "mds", {})
    html = build_report(run, run / "report.html").html.read_text()
    section = html[html.index('<h2 id="mds">') : html.index('<h2 id="panel">')]
    assert section.count("<iframe") == 1
    assert 'class="chart"' not in section
    (run / "mds" / "page.json").unlink()
    still = build_report(run, run / "report.html").html.read_text()
    assert "<iframe" not in still
    assert "MDS of the emotion embeddings of base" in still


def test_a_new_table_is_one_builder_and_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `emo_lightning.report` says."""

    def table9_tables(found: Result) -> list[Table]:
        return [Table("table9", "Table 9", columns("arm", "value"), [[arm, value] for arm, value in found.items()])]

    monkeypatch.setitem(KINDS, "table9", Kind("table9.json", "Table 9", "table9", "Table 9: why not", table9_tables))
    (run / "nine").mkdir()
    (run / "nine" / "table9.json").write_text('{"base": 1.5, "ours": 2.5}')
    report = build_report(run, run / "report.html")
    text = read(report.html)
    assert "Table 9: why not" in text
    assert next(table for table in report.tables if table.key == "table9").cell("ours", "value") == 2.5
    assert (report.tables_dir / "nine-table-9.tex").is_file()
