from __future__ import annotations

import pytest

from emo_lightning.core.tables.csv import as_csv
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.markdown import markdown
from emo_lightning.core.tables.table import Spread, Table, cell_text, columns, p_value, with_minus


def test_cells_are_found_by_keys() -> None:
    one = Table("t", "T", columns("arm", ("ece", "ECE ↓")), [["base", 1.0], ["base", 2.0]])
    assert [one.cell("base", "ece"), one.cell("base-2", "ece")] == [1.0, 2.0]
    with pytest.raises(KeyError, match="no column 'ECE ↓'; found arm, ece"):
        one.cell("base", "ECE ↓")


def test_no_test_says_never() -> None:
    texts = [p_value(p) for p in (None, 0.0, 0.00004, 0.00005, 0.02, 1.0)]
    assert texts == [None, "<0.0001", "<0.0001", "0.0001", "0.0200", "1.0000"]
    assert Table("t", "T", columns("arm", "p"), [["a", "<0.0001"]]).words == set(), "a figure, too"


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
    assert with_minus("a-1, -3 [-2.5, 1e-5], 2-D, Mikels'-8") == "a-1, −3 [−2.5, 1e-5], 2-D, Mikels'-8"
