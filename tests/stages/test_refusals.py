from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from emo_lightning.core.records import SchemaError, write_jsonl
from emo_lightning.stages import figures, tables
from tests.made import make_prediction, make_record


def test_stages_refuse_what_they_cannot_use(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"id": ["a"], "des": [[1.0]]}), tmp_path / "des.parquet")
    with pytest.raises(SchemaError, match=r"columns missing: \['emotion', 'split'\]"):
        figures.mds_stage(tmp_path / "mds", {"base": tmp_path / "des.parquet"})
    with pytest.raises(FileNotFoundError, match=r"gone\.parquet"):
        figures.mds_stage(tmp_path / "mds", {"base": tmp_path / "gone.parquet"})
    write_jsonl(tmp_path / "r.jsonl", [make_record("a")])
    write_jsonl(tmp_path / "p.jsonl", [make_prediction("a")])
    with pytest.raises(SchemaError, match="give the tars"):
        figures.panel_stage(tmp_path / "panel", {"base": tmp_path / "p.jsonl"}, [str(tmp_path / "r.jsonl")])
    with pytest.raises(SchemaError, match="no arm"):
        tables.table5_stage(tmp_path / "t", {}, [str(tmp_path / "r.jsonl")])
    assert not (tmp_path / "mds").exists()
