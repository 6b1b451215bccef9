from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from emo_lightning.report.build import build_report
from emo_lightning.report.latex import latex
from emo_lightning.report.table import Spread, columns, with_unique_names
from emo_lightning.report.table_files import write_tables
from tests.report.given import table


def test_latex_is_booktabs_and_holds_no_bare_special_character() -> None:
    text = latex(table(groups=[("", 1), ("demo", 2)]))
    for expected in (
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
        "\\cmidrule(lr){2-3}",
        "\\textbf{73.50 $\\pm$ 0.50}",
        "% source: run demo",
        "\\label{tab:t}",
        r"36.60\\ \scriptsize {[}34.00, 39.50{]}\end{tabular}",
        "A \\& B, 50 \\%",
        "IoU $\\uparrow$",
    ):
        assert expected in text, expected
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    plain = re.sub(r"\\[&%$#_{}]|\$\\\w+\$|\$-\$", "", body)
    assert not re.search(r"[%$#_~^]", plain)
    assert body.isascii()
    # Every row has as many cells as there are columns, and no line break takes a bracket for its argument.
    rows = [line for line in body.splitlines() if line.endswith("\\\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows[1:]} == {2}
    assert not any(row.startswith("[") for row in rows)
    depth = 0
    for character in re.sub(r"\\[{}]", "", body):
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0


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
