from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from emo_lightning.analysis.table5_rows import MODES, ROWS
from emo_lightning.core.errors import InputError
from emo_lightning.report.build import build_report
from emo_lightning.report.csv import as_csv
from emo_lightning.report.latex import latex
from emo_lightning.report.markdown import markdown
from emo_lightning.report.provenance import Data, Provenance
from emo_lightning.report.side_by_side import side_by_side
from emo_lightning.report.table import Cell, Column, Spread, Table, cell_text, columns, with_minus, with_unique_names
from emo_lightning.report.table_files import write_tables
from emo_lightning.report.tables.objects import object_tables
from emo_lightning.report.tables.table5 import table5_tables

SOURCE = Provenance(
    "demo", "table5", "emo demo --fast", "abc1234", "f" * 64, "2026-01-01", (Data("d/manifest.json", "e" * 64),)
)


def table(**fields: object) -> Table:
    """A small table with everything that may go wrong in a file."""
    given: dict[str, object] = {
        "key": "t",
        "title": "A & B, 50 %",
        "columns": columns("arm_name", "IoU ↑", "note | x"),
        "rows": [
            ["[base]", Spread(36.60123, 34.0, 39.5), "50 % {x}\\y"],
            ["ours", Spread(73.5, std=0.5), None],
            ["none", None, "~^"],
        ],
        "note": "a < b",
        "name": "t",
        "sources": [SOURCE],
        "best": {(1, 1)},
    }
    return Table(**{**given, **fields})  # type: ignore[arg-type]  # the tests name fields of Table


def test_markdown() -> None:
    text = markdown(table())
    lines = text.splitlines()
    assert lines[2] == "| arm\\_name | IoU ↑ | note \\| x |"
    assert lines[4] == "| \\[base\\] | 36.60 \\[34.00, 39.50\\] | 50 % {x}\\\\y |"
    assert lines[5] == "| ours | **73.50 ± 0.50** | – |"
    for expected in ("command emo demo --fast", "commit abc1234", "f" * 64, "e" * 64):
        assert expected in text


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
        found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stdout[-2000:]
        assert "Overfull \\hbox" not in found.stdout, found.stdout


def test_csv_is_read_by_pandas_as_it_was_written(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_text(as_csv(table()))
    found = pandas.read_csv(tmp_path / "t.csv")
    assert found["IoU ↑"].tolist()[:2] == [36.60123, 73.5]
    assert found["note | x"].tolist()[::2] == ["50 % {x}\\y", "~^"]
    assert found.isna()["IoU ↑"].tolist() == [False, False, True]
    assert json.loads(found["sources"][2])[0]["commit"] == "abc1234"


def test_csv_keeps_every_digit_and_the_source() -> None:
    rows = list(csv.DictReader(as_csv(table()).splitlines()))
    assert rows[0]["IoU ↑"] == "36.60123"
    assert (rows[0]["IoU ↑ low"], rows[0]["IoU ↑ high"], rows[0]["IoU ↑ std"]) == ("34.0", "39.5", "")
    assert rows[1]["IoU ↑ std"] == "0.5"
    assert rows[2]["IoU ↑"] == ""
    assert json.loads(rows[0]["sources"])[0]["data"] == {"d/manifest.json": "e" * 64}


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


def test_cells_are_found_by_keys() -> None:
    one = Table("t", "T", columns("arm", ("ece", "ECE ↓")), [["base", 1.0], ["base", 2.0]])
    assert [one.cell("base", "ece"), one.cell("base-2", "ece")] == [1.0, 2.0]
    with pytest.raises(KeyError, match="no column 'ECE ↓'; found arm, ece"):
        one.cell("base", "ECE ↓")


def test_any_object_becomes_tables() -> None:
    found = {
        "images": 24,
        "share": 0.123456789,
        "bill": {"a": {"replies": 1}, "b": {"cost": 2}},
        "none": {},
        "kept": {"yes": True},
    }
    flat, bill, kept = object_tables("world", found)
    assert flat.rows == [["images", 24], ["share", "0.123457"]]
    assert (bill.headings, bill.rows) == (["", "replies", "cost"], [["a", 1, None], ["b", None, 2]])
    assert kept.rows == [["yes", "yes"]]
    assert kept.title == "Kept"


def test_money_is_shown_in_dollars() -> None:
    found = {"cost_usd": 13.0, "cost_nano": 13_000_000_000, "bill": {"gpt": {"nano_dollars": 4_408_670_000}}}
    flat, bill = object_tables("world", found)
    assert flat.rows == [["cost usd", "13"]]
    assert (bill.headings, bill.rows) == (["", "US dollars"], [["gpt", "4.4087"]])


def test_columns_of_words_stand_left_and_figures_right() -> None:
    one = Table(
        "t",
        "T",
        columns("arm", "set", "x", "Δ", "empty"),
        [["a", "test", -1.0, "+1.25", None], ["b", None, 2.0, "-0.5 %", None]],
    )
    assert one.words == {1}
    assert r"\begin{tabular}{llrrr}" in latex(one)
    assert "| --- | --- | ---: | ---: | ---: |" in markdown(one)
    # A minus in print, the hyphen that programs read in CSV; zero has no sign.
    assert "a & test & $-$1.00 & +1.25" in latex(one)
    assert "-1.0" in as_csv(one)
    assert cell_text(Spread(-0.001, -0.004, 0.2)) == "0.00 [0.00, 0.20]"
    assert cell_text(-0.004) == "0.00"
    assert with_minus("a-1, -3 [-2.5, 1e-5], 2-D") == "a-1, −3 [−2.5, 1e-5], 2-D"


def test_what_is_grey_on_the_page_is_named_in_files() -> None:
    grey = [Column("arm", "arm_name"), Column("iou", "IoU ↑", quiet=True), Column("x", "note | x", quiet=True)]
    one = table(columns=grey, quiet_note="they never look")
    assert one.remark == "a < b Grey: they never look"
    assert "IoU $\\uparrow$, note \\textbar{} x: they never look" in latex(one)
    assert "Grey" not in latex(one) + markdown(one)
