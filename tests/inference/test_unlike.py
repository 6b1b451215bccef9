"""A picture that is unlike what the model was trained on: it is told, everywhere, and nothing that was fitted is claimed of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emo_lightning.analysis.unlike import measure_unlike, told_apart
from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import read_bundle
from emo_lightning.inference.calibration import ProbeCalibration, probed
from emo_lightning.inference.fitting import distances
from emo_lightning.inference.folder import write_folder
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.pictures import ImageLike
from emo_lightning.inference.text import as_text
from emo_lightning.metrics.conformal import Conformal
from emo_lightning.stages.bundle import bundle_stage
from tests.made import make_qwen, write_world

PHOTOGRAPHS = (
    "astronaut",
    "chelsea",
    "coffee",
    "rocket",
    "retina",
    "brick",
    "camera",
    "coins",
    "grass",
    "gravel",
    "moon",
    "page",
)


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    data = pytest.importorskip("skimage.data")
    return [getattr(data, name)() for name in PHOTOGRAPHS]


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("drawn"), train=240, val=40, test=40)


@pytest.fixture(scope="module")
def drawings(tars: Path) -> list[Image.Image]:
    """That nothing was fitted on."""
    index = TarIndex.open(str(tars / "world-test-*.tar"))
    return [index.image(row) for row in range(len(index))]


@pytest.fixture(scope="module")
def knowing(bundle: Path, tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that sees pictures as large as the demo's, put together with the pictures of its data."""
    folder, parts = tmp_path_factory.mktemp("knowing"), read_bundle(bundle)
    backbone = make_qwen(folder / "backbone", tars, side=112)
    train, val = ([str(tars / f"world-{split}-*.tar")] for split in ("train", "val"))
    bundle_stage(folder / "model", str(backbone), Path(parts.head), Path(str(parts.probe)), train=train, val=val)
    return folder / "model"


def test_photographs_are_told_from_drawings(
    knowing: Path, tars: Path, drawings: list[Image.Image], photographs: list[np.ndarray]
) -> None:
    model = EmotionModel(knowing, "cpu")
    assert model.spread is not None
    drawn, photographed = model.unlike(drawings), model.unlike(list(photographs), batch_size=5)
    assert drawn is not None
    assert photographed is not None
    like, others = (np.array([one.score for one in found]) for found in (drawn, photographed))
    found = measure_unlike(model.spread, {"test": distances(model, [str(tars / "world-test-*.tar")])}, others)
    assert found["auroc"] is not None
    assert found["auroc"]["value"] is not None
    assert found["auroc"]["value"] >= 95
    assert found["auroc"] == told_apart(like, others) | {"low": found["auroc"]["low"], "high": found["auroc"]["high"]}
    assert (found["train_images"], found["val_images"], found["against"]) == (240, 40, "test")
    share = found["sets"]["test"]["share"]["value"]
    assert share == pytest.approx(100 * np.mean([one.is_unlike for one in drawn]))
    assert share is not None
    assert share <= 20


def test_the_batch_changes_nothing(knowing: Path, drawings: list[Image.Image], photographs: list[np.ndarray]) -> None:
    """Patches and states of the tower go to their own picture, whatever is read with it, and `explain` sees what `unlike` does."""
    model = EmotionModel(knowing, "cpu")
    pictures: list[ImageLike] = [drawings[0], photographs[1], drawings[2].resize((150, 60)), photographs[3]]
    together, alone = model.unlike(pictures), [one for picture in pictures for one in model.unlike(picture) or []]
    assert together is not None
    expected = pytest.approx([one.score for one in alone], rel=1e-3)
    assert [one.score for one in together] == expected
    assert [one.unlike.score for one in model.explain(pictures, max_new_tokens=2) if one.unlike] == expected
    model.collate.packed = False
    assert [one.unlike.score for one in model.explain(pictures, max_new_tokens=2) if one.unlike] == expected


def test_it_is_said_everywhere_and_nothing_fitted_is_claimed(
    knowing: Path, photographs: list[np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a picture beyond the threshold: text, JSON, tables and the drawing say so, and the set is all eight."""
    model = EmotionModel(knowing, "cpu")
    (one,) = model.explain([photographs[0]], ["portrait"], max_new_tokens=4)
    assert one.unlike is not None
    assert one.unlike.is_unlike
    assert one.probe is not None
    assert one.probe.conformal is not None
    assert (set(one.probe.conformal), one.probe.coverage, one.probe.calibrated) == (set(EMOTIONS), 1.0, False)
    assert one.probe.conformal[0] is one.probe.emotion
    said = one.as_json()
    assert said["unlike"] == {
        "is_unlike": True,
        "score": round(one.unlike.score, 6),
        "threshold": round(one.unlike.threshold, 6),
        "false_alarms": 0.05,
        "sentence": one.unlike.sentence,
    }
    text = as_text(one)
    assert "kind      unlike what this model was trained on" in text
    assert "all eight  (no smaller set is sure of such a picture)" in text
    assert "* not calibrated" in text

    picture = tmp_path / "portrait.png"
    Image.fromarray(photographs[0]).save(picture)
    command = ["explain", str(picture), "--model", str(knowing), "--max-new-tokens", "4"]
    assert main([*command, "--out", str(tmp_path / "said.parquet")]) == 0
    (row,) = pq.read_table(tmp_path / "said.parquet").to_pylist()
    assert (row["unlike"], row["unlike_threshold"]) == (True, pytest.approx(one.unlike.threshold, rel=1e-5))
    assert len(row["conformal_set"]) == 8
    capsys.readouterr()
    assert main([*command, "--out", str(tmp_path / "drawn.png")]) == 0
    assert json.loads(capsys.readouterr().out)["unlike"]["is_unlike"]


def test_a_picture_of_its_own_kind_is_as_before(knowing: Path, drawings: list[Image.Image]) -> None:
    model = EmotionModel(knowing, "cpu")
    found = model.unlike(drawings)
    assert found is not None
    row = int(np.argmin([one.score for one in found]))
    (one,) = model.explain([drawings[row]], max_new_tokens=4)
    assert one.unlike is not None
    assert not one.unlike.is_unlike
    assert one.probe is not None
    assert one.probe.calibrated
    assert one.probe.coverage == pytest.approx(0.9)
    assert "kind      like what this model was trained on" in as_text(one)


def test_a_folder_takes_it_along_and_an_older_one_does_not_know(
    knowing: Path, bundle: Path, photographs: list[np.ndarray], tmp_path: Path
) -> None:
    write_folder(
        read_bundle(knowing), tmp_path / "folder", calibration=ProbeCalibration.of(knowing, read_bundle(knowing).probe)
    )
    (tmp_path / "folder").rename(tmp_path / "moved")
    moved, stage, old = (EmotionModel(folder, "cpu") for folder in (tmp_path / "moved", knowing, bundle))
    assert moved.calibration == stage.calibration is not None
    found, expected = moved.unlike(photographs[:2]), stage.unlike(photographs[:2])
    assert found is not None
    assert expected is not None
    assert [one.score for one in found] == pytest.approx([one.score for one in expected], rel=1e-3)
    assert old.unlike(photographs[:2]) is None
    (one,) = old.explain([photographs[0]], max_new_tokens=2)
    assert one.unlike is None
    assert one.as_json()["unlike"] is None
    assert "kind      not known whether it is like what this model was trained on" in as_text(one)
    # Of version 0.2 there is no such key at all.
    shutil.copytree(bundle, tmp_path / "older")
    said = json.loads((bundle / "emo.json").read_text())
    del said["spread"], said["made_of"]
    for part in ("backbone", "head", "probe"):
        said[part] = str((bundle / said[part]).resolve())
    (tmp_path / "older" / "emo.json").write_text(json.dumps(said))
    assert read_bundle(tmp_path / "older").spread is None


def test_a_spread_of_another_backbone_is_refused(knowing: Path, tmp_path: Path) -> None:
    shutil.copytree(knowing, tmp_path / "model")
    said = json.loads((knowing / "emo.json").read_text())
    for part in ("backbone", "head", "probe"):
        said[part] = str((knowing / said[part]).resolve())
    (tmp_path / "model" / "emo.json").write_text(json.dumps(said))
    assert EmotionModel(tmp_path / "model", "cpu").spread is not None
    made_of = tmp_path / "model" / "spread" / "made_of.json"
    made_of.write_text(json.dumps({"backbone": "0" * 64, "prompt": "emotion"}))
    with pytest.raises(InputError, match=r"spread .* was made with another backbone"):
        EmotionModel(tmp_path / "model", "cpu")
    config = tmp_path / "model" / "spread" / "config.json"
    config.write_text(config.read_text().replace('"val_images": 40', '"val_images": 41'))
    with pytest.raises(InputError, match="was made with another spread"):
        EmotionModel(tmp_path / "model", "cpu")


def test_half_of_the_data_is_refused_and_too_little_is_said(
    bundle: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = read_bundle(bundle)
    with pytest.raises(InputError, match="expected the tars of both, or of neither"):
        bundle_stage(tmp_path, parts.backbone, Path(parts.head), train=["train.tar"])
    train, val = ([str(world_tars / f"world-{split}-*.tar")] for split in ("train", "val"))
    bundle_stage(tmp_path, parts.backbone, Path(parts.head), train=train, val=val)
    assert "will not be known: 8 validation images: too few" in capsys.readouterr().out
    assert EmotionModel(tmp_path, "cpu").unlike(np.zeros((60, 60, 3), np.uint8)) is None


def test_sets_only_grow_so_that_what_they_cover_stays_covered() -> None:
    fitted = ProbeCalibration(2.0, Conformal("lac", 0.1, 0.75, 40))
    probabilities = [0.6, 0.3, *[0.1 / 6] * 6]
    like, unlike = probed(probabilities, fitted), probed(probabilities, fitted, unlike=True)
    assert like.conformal is not None
    assert unlike.conformal is not None
    assert unlike.conformal[: len(like.conformal)] == like.conformal
    assert like.distribution == unlike.distribution
    assert probed(probabilities, None, unlike=True).conformal is None
