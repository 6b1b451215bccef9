from __future__ import annotations

import hashlib
from pathlib import Path

from emo_lightning.core.records import EMOTIONS
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import RunFolder
from tests.made import book, make_record, write_tar

VOID = {"meta", "br", "img", "link", "input", "hr"}


def test_a_run_that_was_moved_still_finds_its_data(tmp_path: Path) -> None:
    records = [make_record(f"i{n}", emotion=EMOTIONS[n]) for n in range(3)]
    (tmp_path / "new" / "world" / "tars").mkdir(parents=True)
    write_tar(tmp_path / "new" / "world" / "tars" / "w-000000.tar", records)
    (tmp_path / "new" / "world" / "tars" / "manifest.json").write_text("{}")
    (tmp_path / "new" / "experiment.yaml").write_text("dir: /gone/old\n")
    book(tmp_path / "new" / "sft", "sft", {"data": {"train": ["/gone/old/world/tars/*.tar"]}})
    book(tmp_path / "new" / "predict", "predict", {"model": {"path": "/gone/old/sft/adapter"}})
    run = RunFolder(tmp_path / "new", set())
    data = Sources(run).data(next(s for s in run.stages if s.name == "predict"))
    assert [d.path for d in data] == ["world/tars/manifest.json"]
    assert data[0].sha256 == hashlib.sha256(b"{}").hexdigest()
    (tmp_path / "new" / "world" / "tars" / "manifest.json").unlink()
    data = Sources(run).data(next(s for s in run.stages if s.name == "sft"))
    assert "without a manifest.json" in data[0].problem
