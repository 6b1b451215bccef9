from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from emo_lightning.core.tables.csv import as_csv
from tests.core.tables.given import table


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
