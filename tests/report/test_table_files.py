from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.report.latex import latex
from emo_lightning.report.markdown import markdown
from emo_lightning.report.table import Column, with_unique_names
from emo_lightning.report.table_files import write_tables
from tests.report.given import table


def test_tables_of_an_older_report_do_not_stay(tmp_path: Path) -> None:
    folder = tmp_path / "report_tables"
    write_tables(folder, [table(name="old")], "t")
    write_tables(folder, with_unique_names([table(name="New & 1"), table(name="new-1")]), "t", ["nothing"])
    assert {p.name for p in folder.iterdir()} == {f"{n}{s}" for n in ("new-1", "new-1-2") for s in (".md", ".tex", ".csv")} | {
        "all.md",
        "all.tex",
    }
    assert "- nothing" in (folder / "all.md").read_text()
    (folder / "mine.xlsx").write_text("")
    with pytest.raises(InputError, match=r"mine\.xlsx"):
        write_tables(folder, [], "t")
    assert (folder / "new-1.csv").exists()
    assert not list(tmp_path.glob("*.tmp"))


def test_what_is_grey_on_the_page_is_named_in_files() -> None:
    grey = [Column("arm", "arm_name"), Column("iou", "IoU ↑", quiet=True), Column("x", "note | x", quiet=True)]
    one = table(columns=grey, quiet_note="they never look")
    assert one.remark == "a < b Grey: they never look"
    assert "IoU $\\uparrow$, note \\textbar{} x: they never look" in latex(one)
    assert "Grey" not in latex(one) + markdown(one)
