from __future__ import annotations

import csv

from data_prep.stats.table3 import Table3
from data_prep.stats.table3_tables import table3_notes, table3_tables
from emo_lightning.core.tables.csv import as_csv
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.table import Spread


def counted() -> Table3:
    """Two images; the critic has noticed one of two wrong emotions, and nothing else was asked."""
    table = Table3(images=2)
    table.published["no_critic"] = 2
    table.unanswered["refused"] = 1
    table.trials["no_critic"]["emotion"] = [True, True, False, True]
    table.trials["recall"]["emotion"] = [True, False]
    table.trials["recall_2"]["emotion"] = [True]
    return table


def test_rates_stand_with_their_interval_and_number_of_cases() -> None:
    table, severity = table3_tables(counted().as_json())
    assert table.cell("emotion", "no_critic") == Spread(75.0, 30.06, 95.44)
    assert table.cell("emotion", "no_critic/n") == 4
    assert table.cell("emotion", "recall") == Spread(50.0, 9.45, 90.55)
    assert table.cell("box", "recall") == Spread(None)
    assert table.cell("box", "recall/n") == 0
    assert [severity.cell("emotion", f"recall_{s}/n") for s in (1, 2)] == [0, 1]
    rows = list(csv.DictReader(as_csv(table).splitlines()))
    assert rows[0]["w/o critic acc.: % high"] == "95.44"
    assert r"\multicolumn{2}{c}{Critic recall rate}" in latex(table)


def test_the_notes_say_what_was_left_out() -> None:
    assert table3_notes(counted().as_json()) == ["2 images; published by each arm: no critic 2", "left out: refused 1"]
    assert table3_notes(Table3(images=1).as_json()) == ["1 images; published by each arm: not known without references"]
