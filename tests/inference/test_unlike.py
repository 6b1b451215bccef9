"""A picture that is unlike what the model was trained on: it is told, everywhere, and nothing that was fitted is claimed of it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.demo.world import World
from emo_lightning.analysis.unlike import measure_unlike, told_apart
from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import weights_hash
from emo_lightning.core.records import EMOTIONS, Record
from emo_lightning.inference.bundle import read_bundle
from emo_lightning.inference.calibration import ProbeCalibration, probed
from emo_lightning.inference.folder import write_folder
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.text import as_text
from emo_lightning.metrics.conformal import Conformal
from emo_lightning.stages.bundle import bundle_stage
from tests.made import write_store

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
def world() -> Mapping[str, list[tuple[Record, Image.Image]]]:
    drawn = World(seed=0)
    counts = {"train": 64, "val": 24, "test": 24}
    return {
        split: [(one.truth, Image.open(io.BytesIO(one.image)).convert("RGB")) for one in drawn.samples(split, n)]
        for split, n in counts.items()
    }


@pytest.fixture(scope="module")
def stores(
    bundle: Path, world: Mapping[str, list[tuple[Record, Image.Image]]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder, model = tmp_path_factory.mktemp("stores"), EmotionModel(bundle, "cpu")
    for split, samples in world.items():
        write_store(folder / split, model, samples)
    return folder


@pytest.fixture(scope="module")
def knowing(bundle: Path, stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, put together with the feature stores of its head."""
    folder, parts = tmp_path_factory.mktemp("knowing"), read_bundle(bundle)
    bundle_stage(folder, parts.backbone, Path(parts.head), Path(str(parts.probe)), train=stores / "train", val=stores / "val")
    return folder


def test_photographs_are_told_from_drawings(
    knowing: Path, stores: Path, world: Mapping[str, list[tuple[Record, Image.Image]]], photographs: list[np.ndarray]
) -> None:
    model = EmotionModel(knowing, "cpu")
    assert model.spread is not None
    drawn, photographed = model.unlike([picture for _, picture in world["test"]]), model.unlike(list(photographs))
    assert drawn is not None
    assert photographed is not None
    others = np.array([one.score for one in photographed])
    apart = told_apart(np.array([one.score for one in drawn]), others)
    assert apart["value"] is not None
    assert apart["value"] >= 95
    made_of = {"backbone": weights_hash(model.bundle.backbone), "prompt": "emotion"}
    found = measure_unlike(model.spread, {"test": stores / "test"}, made_of, others)
    assert found["auroc"] == pytest.approx(apart, abs=0.5)
    assert (found["train_images"], found["val_images"], found["sets"]["test"]["images"], found["against"]) == (
        64,
        24,
        24,
        "test",
    )
    # The store and the picture itself give the same.
    share = found["sets"]["test"]["share"]["value"]
    assert share == pytest.approx(100 * np.mean([one.is_unlike for one in drawn]))
    assert share is not None
    assert share <= 25


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


def test_a_picture_of_its_own_kind_is_as_before(knowing: Path, world: Mapping[str, list[tuple[Record, Image.Image]]]) -> None:
    model = EmotionModel(knowing, "cpu")
    distances = model.unlike([picture for _, picture in world["test"]])
    assert distances is not None
    row = int(np.argmin([one.score for one in distances]))
    (one,) = model.explain([world["test"][row][1]], max_new_tokens=4)
    assert one.unlike is not None
    assert one.unlike.score == pytest.approx(distances[row].score, rel=1e-4)
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
    config.write_text(config.read_text().replace('"val_images": 24', '"val_images": 25'))
    with pytest.raises(InputError, match="was made with another spread"):
        EmotionModel(tmp_path / "model", "cpu")


def test_stores_of_another_backbone_and_one_alone_are_refused(
    stores: Path, bundle: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    parts = read_bundle(bundle)
    with pytest.raises(InputError, match=r"the feature store .* was made with another backbone"):
        bundle_stage(tmp_path, str(tiny_qwen), Path(parts.head), train=stores / "train", val=stores / "val")
    with pytest.raises(InputError, match="expected the feature stores of both, or of neither"):
        bundle_stage(tmp_path, parts.backbone, Path(parts.head), train=stores / "train")


def test_sets_only_grow_so_that_what_they_cover_stays_covered() -> None:
    fitted = ProbeCalibration(2.0, Conformal("lac", 0.1, 0.75, 40))
    probabilities = [0.6, 0.3, *[0.1 / 6] * 6]
    like, unlike = probed(probabilities, fitted), probed(probabilities, fitted, unlike=True)
    assert like.conformal is not None
    assert unlike.conformal is not None
    assert unlike.conformal[: len(like.conformal)] == like.conformal
    assert like.distribution == unlike.distribution
    assert probed(probabilities, None, unlike=True).conformal is None
