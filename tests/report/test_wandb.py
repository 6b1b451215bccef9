"""The offline W&B run really holds what the page shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from emo_lightning.experiment.sent_rows import entries
from emo_lightning.report.build import build_report
from emo_lightning.report.wandb import log_report
from tests.patience import wait_until


def test_tables_images_and_artifact_are_in_the_offline_run(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-data"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    report = build_report(finished_run, tmp_path / "report.html", samples=2)
    folder = log_report(report, tmp_path)
    assert folder.parent == tmp_path / "wandb"
    assert folder.name.startswith("offline-run-")

    media = folder / "files" / "media"
    tables = {path.name.rsplit("_", 2)[0]: json.loads(path.read_text()) for path in media.rglob("*.table.json")}
    assert set(tables) == {table.name for table in report.tables}
    strict = tables["table5-strict"]
    row = next(row for row in strict["data"] if row[0] == "Emotion Acc ↑")
    scored = json.loads((finished_run / "table5" / "table5.json").read_text())["arms"]["ours"]
    assert row[strict["columns"].index("ours")] == scored["strict"]["emotion_acc"]
    assert row[strict["columns"].index("ours low")] == scored["intervals"]["strict"]["emotion_acc"][0]

    assert len(list(media.rglob("*.png"))) == 3 + 2 + 2
    boxes = [json.loads(path.read_text()) for path in media.rglob("*.boxes2D.json")]
    true = next(b["box_data"][0] for b in boxes if b["box_data"][0]["class_id"] == 0)
    assert true["position"] == {"minX": 0.1, "minY": 0.2, "maxX": 0.6, "maxY": 0.8}
    assert any(path.read_text() == report.html.read_text() for path in (media / "html").glob("report*.html"))

    artifact = next(a for a in written(folder, "artifact") if a.type == "report")
    names = {entry.path for entry in artifact.manifest.contents}
    if not names:  # Large manifests lie in a file of their own.
        names = set(json.loads(Path(artifact.manifest.manifest_file_path).read_text(encoding="utf-8")))
    assert {"report.html", "report_tables/all.tex", "report_tables/table5-strict.csv"} <= names
    config = next(r for r in written(folder, "run")).config
    sources = next(json.loads(item.value_json) for item in config.update if item.key == "sources")
    assert sources[f"{finished_run.name}/table5"]["config_sha256"] == "f" * 64
    assert list(sources[f"{finished_run.name}/table5"]["data"].values())


def written(folder: Path, kind: str, *, ended: bool = True) -> list[Any]:
    """Records of one kind in the run's own file, which `wandb sync` sends; of one that was killed it has no end."""
    if ended:
        # W&B's own process writes the last block of the file a moment after the run is finished.
        wait_until(lambda: [record.WhichOneof("record_type") for record in records(folder)][-1:] == ["exit"])
    return [getattr(record, kind) for record in records(folder) if record.WhichOneof("record_type") == kind]


def records(folder: Path) -> list[Any]:
    """All that stand in the run's own file, which is made a moment after its folder."""
    found = []
    for path in folder.glob("run-*.wandb"):
        for data in entries(path.read_bytes()):
            found.append(wandb_internal_pb2.Record())  # type: ignore[attr-defined]  # protobuf makes it at run time
            found[-1].ParseFromString(data)
    return found
