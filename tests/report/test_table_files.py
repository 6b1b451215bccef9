from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.markdown import markdown
from emo_lightning.core.tables.table import Column, Spread, columns, with_unique_names
from emo_lightning.report.build import build_report
from emo_lightning.report.table_files import write_tables
from tests.core.tables.given import table


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


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_and_stays_on_the_page(finished_run: Path, tmp_path: Path) -> None:
    wide = table(
        columns=columns(*(f"column {n}" for n in range(14))),
        rows=[["a", *[Spread(-12.345, -33.0, 39.5)] * 13]],
        name="wide",
        best={(0, 2)},
    )
    worded = table(
        columns=columns("set", "map"),
        rows=[["x", "amusement, awe, contentment = joy; the rest by name; " * 4]],
        name="worded",
        best=set(),
    )
    tables = with_unique_names([table(groups=[("", 1), ("demo", 2)]), wide, worded])
    folder = write_tables(tmp_path / "t_tables", tables, "t")
    report = build_report(finished_run, tmp_path / "report.html")
    for source in (folder, report.tables_dir):
        (tmp_path / "all.tex").write_text(
            "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
            f"\\input{{{source / 'all.tex'}}}\n\\end{{document}}\n"
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", errors="replace", check=False)
        assert found.returncode == 0, found.stdout[-2000:]
        assert "Overfull \\hbox" not in found.stdout, found.stdout
