"""Masked regions: the geometry, a probe whose attention is known, and `emo faithfulness` on a real tiny bundle."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import wilcoxon

from emo_lightning.analysis.faithfulness import MaskPlan, faithfulness, random_boxes
from emo_lightning.analysis.references import References
from emo_lightning.cli import main
from emo_lightning.core.records import PredictedObject, Prediction, Record, SchemaError, write_jsonl
from emo_lightning.data.images import MaskFill, masked
from emo_lightning.data.tar_index import TarIndex
from tests.made import as_json, make_record


def test_masks_touch_the_box_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    inside = np.zeros((40, 60), dtype=bool)
    inside[5:25, 10:40] = True
    for how in get_args(MaskFill):
        out = np.asarray(masked(image, (10, 5, 40, 25), how))
        assert (out[~inside] == pixels[~inside]).all()
        assert out[inside].std() < pixels[inside].std() / 2
    painted = np.asarray(masked(image, (10, 5, 40, 25), "mean"))[inside]
    assert (abs(painted - pixels.reshape(-1, 3).mean(0)) <= 1).all()
    assert (np.asarray(image) == pixels).all(), "the image itself stays"


def test_random_boxes_are_as_large_inside_and_elsewhere() -> None:
    box, size, plan = (5, 5, 25, 35), (100, 80), MaskPlan(draws=40, max_overlap=0.2)
    found = random_boxes(box, size, plan, np.random.default_rng(0))
    assert found is not None
    assert len(found) == 40
    for x1, y1, x2, y2 in found:
        assert (x2 - x1, y2 - y1) == (20, 30)
        assert 0 <= x1 < x2 <= 100
        assert 0 <= y1 < y2 <= 80
        both = max(0, min(25, x2) - max(5, x1)) * max(0, min(35, y2) - max(5, y1))
        assert both / (1200 - both) <= 0.2
    assert len({b[:2] for b in found}) > 30
    assert random_boxes((0, 0, 95, 80), size, plan, np.random.default_rng(0)) is None


class Redness:
    """Stands for a bundle whose first probability is the share of red in the image: what it looks at is known exactly."""

    probe = True

    def embed(self, images: Sequence[Image.Image]) -> torch.Tensor:
        return torch.tensor([[np.asarray(i)[..., 0].mean() / 255] for i in images])

    def distribution(self, des: torch.Tensor) -> torch.Tensor:
        rest = (1 - des) / 70
        return torch.cat([des / 2 + 0.45, *[rest] * 7], 1)


MakeTar = Callable[[list[Record]], tuple[Path, list[Record]]]


def red_squares(make_tar: MakeTar) -> tuple[Path, list[Record]]:
    boxes = [(5.0, 5.0, 25.0, 25.0), (60.0, 20.0, 80.0, 40.0), (30.0, 8.0, 50.0, 28.0)]
    return make_tar([make_record(f"r{i}", [box], emotion="awe") for i, box in enumerate(boxes)])


def test_what_is_looked_at_is_found(make_tar: MakeTar, monkeypatch: pytest.MonkeyPatch) -> None:
    from emo_lightning.analysis import references

    path, records = red_squares(make_tar)

    def image(_: References, i: int) -> Image.Image:
        out = np.zeros((50, 100, 3), dtype=np.uint8)
        x1, y1, x2, y2 = (int(v) for v in records[i].objects[0].bbox)
        out[y1:y2, x1:x2, 0] = 250
        return Image.fromarray(out)

    monkeypatch.setattr(references.References, "image", image)
    result = as_json(faithfulness(Redness(), [str(path)], None, MaskPlan(max_overlap=0.0, draws=5)))
    for row in result["rows"]:
        # 400 of 5,000 pixels are red: the share falls from 0.08 to that of the mean colour, half of it in points.
        assert row["grounded"] == pytest.approx(100 * 0.5 * (0.08 * 250 / 255) * 0.92, abs=0.1)
        assert row["random"] <= 0, "the black pixels become a little red"
        assert row["emotion"] == "amusement"
    surplus = result["summary"]["surplus"]
    assert surplus["low"] <= surplus["value"] <= surplus["high"]
    gaps = [r["grounded"] - r["random"] for r in result["rows"]]
    assert surplus["value"] == pytest.approx(np.mean(gaps))
    assert surplus["p"] == pytest.approx(wilcoxon(gaps).pvalue)
    assert result["summary"]["larger"] == 100


def test_the_command_on_a_bundle(
    bundle: Path,
    world_tars: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["faithfulness", f"{world_tars}/*-test-*.tar", "--model", str(bundle), "--draws", "2", "--max-overlap", "0.6"]
    assert main([*words, "--json", "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "faithfulness.json").read_text())
    assert result["summary"]["images"] + sum(result["skipped"].values()) == 8
    assert sum(s["images"] for s in result["emotions"].values()) == result["summary"]["images"] > 1
    assert any(abs(r["grounded"]) > 1e-4 for r in result["rows"])
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == result, "the same seed gives the same figures"

    # The model's own boxes: of one image alone.
    index = TarIndex.open(f"{world_tars}/*-test-*.tar")
    name = index.record(0).id
    write_jsonl(
        tmp_path / "p.jsonl", [Prediction(id=name, objects=[PredictedObject(phrase="it", bbox=(1.0, 1.0, 30.0, 30.0))])]
    )
    assert main([*words, "--boxes", str(tmp_path / "p.jsonl")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "one image, so there is no interval" in out
    assert "7 images without a box are left out" in out


def test_bad_input_is_one_clear_line(
    bundle: Path,
    world_tars: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tars, model = f"{world_tars}/*-test-*.tar", ["--model", str(bundle)]
    records = [TarIndex.open(tars).record(0).model_copy(update={"objects": []})]
    write_jsonl(tmp_path / "r.jsonl", records)
    for words, message in (
        ([str(tmp_path / "r.jsonl"), *model], "JSON lines hold none: give the tars"),
        ([tars, *model, "--draws", "0"], "--draws 0: expected at least 1"),
        ([tars, *model, "--limit", "0"], "--limit 0"),
        ([tars, *model, "--max-overlap", "0"], "no image can be measured"),
        ([tars, "--model", str(tmp_path)], "no emo.json there; expected the folder of an emotion model"),
    ):
        found = main(["faithfulness", *words])
        error = capsys.readouterr().err
        # Without any overlap some images may have room.
        assert found in ((0, 2) if "--max-overlap" in words else (2,))
        assert found == 0 or message in error
    without = tmp_path / "model"
    without.mkdir()
    config = json.loads((bundle / "emo.json").read_text())
    config |= {k: str((bundle / config[k]).resolve()) for k in ("backbone", "head")} | {"probe": None}
    (without / "emo.json").write_text(json.dumps(config))
    assert main(["faithfulness", tars, "--model", str(without)]) == 2
    assert "the bundle has no probe" in capsys.readouterr().err


def test_probabilities_that_are_not_finite_are_refused(make_tar: MakeTar) -> None:
    class Broken(Redness):
        def distribution(self, des: torch.Tensor) -> torch.Tensor:
            return super().distribution(des) * torch.nan

    path, _ = red_squares(make_tar)
    with pytest.raises(SchemaError, match="id 'r0': the model's probabilities are not finite"):
        faithfulness(Broken(), [str(path)], None, MaskPlan())
