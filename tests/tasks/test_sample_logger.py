"""What W&B holds after a validation: the images, the replies as captions, and boxes where they were drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from emo_lightning.core.records import GroundedObject, PredictedObject
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.tasks.sample_logger import SampleLogger, _boxes
from emo_lightning.tasks.sft import SFTTask
from tests.tasks.test_sft import data, trainer


def test_an_offline_run_holds_images_captions_and_boxes(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The client reads the environment once in a process; another test may have been first.
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    source = data(world_tars, objectives={"attributes": 1.0, "emotion": 1.0})
    logger = WandbLogger(save_dir=tmp_path, project="p")
    run = trainer(
        tmp_path, max_steps=1, limit_val_batches=1, val_check_interval=1, logger=logger, callbacks=[SampleLogger(2, 4)]
    )
    run.fit(SFTTask(BackboneConfig(str(tiny_qwen), tuning="lora")), datamodule=source)
    logger.experiment.finish()
    (files,) = tmp_path.glob("wandb/offline-run-*/files")
    assert list(files.parent.glob("run-*.wandb")), "what `wandb sync` sends"

    truth = source.dataset("val").index
    sizes = [Image.open(path).size for path in files.glob("media/images/val/samples*.png")]
    # One size for all, as W&B shows them; boxes stay where they are.
    assert sizes == [tuple(max(truth.image(row).size[axis] for row in (0, 1)) for axis in (0, 1))] * 2
    drawn = [json.loads(path.read_text()) for path in files.glob("media/metadata/boxes2D/**/*.json")]
    annotated = [
        {"position": dict(zip(("minX", "minY", "maxX", "maxY"), o.bbox, strict=True)), "box_caption": o.phrase}
        for row in (0, 1)
        for o in truth.record(row).primary_objects
    ]
    assert annotated
    found = [
        {k: box[k] for k in ("position", "box_caption")} for entry in drawn for box in entry["box_data"] if box["class_id"] == 1
    ]
    assert all(box in found for box in annotated)
    assert all(box["domain"] == "pixel" for entry in drawn for box in entry["box_data"])


def test_predicted_and_annotated_boxes_are_told_apart() -> None:
    said = PredictedObject(phrase="a dog", bbox=(1, 2, 30, 40))
    boxes = _boxes([said], [], (50, 50))
    assert list(boxes) == ["predicted"]
    (row,) = boxes["predicted"]["box_data"]
    assert row["position"] == {"minX": 1, "minY": 2, "maxX": 30, "maxY": 40}
    assert isinstance(row["class_id"], int)
    assert boxes["predicted"]["class_labels"][row["class_id"]] == "predicted"
    assert _boxes([], [], (50, 50)) == {}
    (cut,) = _boxes([said], [], (20, 60))["predicted"]["box_data"]
    assert cut["position"] == {"minX": 1, "minY": 2, "maxX": 20, "maxY": 40}
    true = GroundedObject(phrase="dog", bbox=(2, 3, 31, 41), score=1.0)
    both = _boxes([said], [true], (50, 50))
    assert {name: group["box_data"][0]["class_id"] for name, group in both.items()} == {"predicted": 0, "annotated": 1}
