"""The model that the package carries sees and says what its card claims, on images that no training used."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from data_prep.demo.config import WorldConfig
from data_prep.demo.world_tars import write_world_tars
from emo_lightning.analysis.baselines import ConstantAnswer
from emo_lightning.cli import main
from emo_lightning.core.model_folders import SHIPPED, backbone_of, weights_hash
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.metrics.boxes import BOX_SCORES, box_scores

ID = "emo-lightning/tiny-base"
FOLDER = SHIPPED[ID]
IMAGES = 192


def card_figure(row: str) -> float:
    """Percent, of the card's table."""
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(row)} \| ([\d.]+) \[[\d.]+, [\d.]+\] \|$", text, re.MULTILINE)
    assert found, row
    return float(found[1])


def test_fresh_images_have_the_figures_of_the_card(tmp_path: Path) -> None:
    write_world_tars(tmp_path / "fresh", WorldConfig(seed=31), {"backbone": IMAGES}, "neutral", images="jpg")
    out = tmp_path / "said.jsonl"
    asked = ["--objectives", "attributes", "--batch-size", "64", "--max-new-tokens", "64", "--dtype", "float32"]
    assert main(["predict", ID, str(tmp_path / "fresh"), "--out", str(out), *asked]) == 0
    said = {prediction.id: prediction for prediction in read_jsonl(out, Prediction)}
    index = TarIndex.open([str(tmp_path / "fresh")])
    records = [index.record(row) for row in range(len(index))]
    right = {
        part: 100 * sum(getattr(said[r.id], part) == getattr(r, part) for r in records) / len(records)
        for part in ("background", "subject", "attribute")
    }
    boxes = [np.array([o.bbox for o in said[r.id].objects[:1]]).reshape(-1, 4) for r in records]
    scores = box_scores(boxes, [np.array([o.bbox for o in r.primary_objects]) for r in records])
    right["box of the subject, mean IoU × 100"] = 100 * float(scores[:, BOX_SCORES.index("iou_strict")].mean())
    # What a box costs that is the same for all: the figure is far above it.
    constant = ConstantAnswer(records, "median").answers(records)
    blind = box_scores(
        [np.array([one.objects[0].bbox]) for one in constant], [np.array([o.bbox for o in r.primary_objects]) for r in records]
    )
    floor = 100 * float(blind[:, BOX_SCORES.index("iou_strict")].mean())
    assert floor == pytest.approx(card_figure("a constant box, mean IoU × 100"), abs=5)
    least = {"background": 98, "subject": 95, "attribute": 90, "box of the subject, mean IoU × 100": 75}
    for row, found in right.items():
        assert card_figure(row) >= least[row]
        assert found >= least[row], row
        # 192 images: three standard errors of a figure of 95 %, and of a mean IoU.
        assert abs(found - card_figure(row)) < 5, row
    assert all(prediction.emotion is None for prediction in said.values())


def test_it_is_small_and_whole() -> None:
    file = FOLDER / "model.safetensors"
    assert file.stat().st_size <= 8_000_000
    with safe_open(file, "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"BF16"}  # noqa: SIM118 - no mapping
    assert json.loads((FOLDER / "config.json").read_text())["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]


def test_its_id_stands_for_its_folder_unless_there_is_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert backbone_of(ID) == str(FOLDER)
    assert weights_hash(ID) == weights_hash(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    (tmp_path / ID).mkdir(parents=True)
    assert backbone_of(ID) == ID
