"""A model whose DES head was trained with `va_weight`: what its affect head gives stands in everything that is written of a picture."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import BackboneError, made_of, write_made_of
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import read_bundle, write_bundle
from emo_lightning.inference.folder import write_folder
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.text import as_text
from emo_lightning.models.affect import AffectHead
from emo_lightning.stages.bundle import bundle_stage
from emo_lightning.tasks.predict_affect import AffectReader


@pytest.fixture(scope="module")
def feeling(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, with a random affect head that was trained for valence and arousal."""
    folder = tmp_path_factory.mktemp("feeling")
    shutil.copytree(read_bundle(bundle).head, folder / "head")
    torch.manual_seed(11)
    affect = AffectHead(32, dimensions=["valence", "arousal"])
    beside = affect.save_beside(folder / "head")
    write_bundle(folder, replace(read_bundle(bundle), head=str(folder / "head"), affect=str(beside)))
    return folder


def values(model: EmotionModel, tars: Path, count: int) -> dict[str, list[float]]:
    """Valence and arousal by hand: the linear layer on the embedding."""
    index = TarIndex.open(tars)
    assert model.affect is not None
    rows = model.affect(model.embed([index.image(row) for row in range(count)])).detach()
    return {index.id(row): rows[row, :2].tolist() for row in range(count)}


def test_it_stands_in_explanations_of_every_form(
    feeling: Path, bundle: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = EmotionModel(feeling, device="cpu")
    by_hand = values(model, world_tars, 40)
    options = ["--model", str(feeling), "--device", "cpu", "--max-new-tokens", "4"]
    tar = str(world_tars / "world-test-000000.tar")
    for ending in ("jsonl", "parquet"):
        assert main(["explain", tar, *options, "--out", str(tmp_path / f"found.{ending}")]) == 0
    lines = {one.id: one for one in read_jsonl(tmp_path / "found.jsonl", Prediction)}
    rows = {row["id"]: row for row in pq.read_table(tmp_path / "found.parquet").to_pylist()}
    assert len(lines) == len(rows) == 8
    for key, one in lines.items():
        assert (one.valence, one.arousal) == pytest.approx(by_hand[key], abs=1e-4)
        assert one.dominance is None
        assert (rows[key]["valence"], rows[key]["arousal"], rows[key]["dominance"]) == (one.valence, one.arousal, None)
    (explained,) = model.explain([TarIndex.open(world_tars).image(0)], max_new_tokens=4)
    assert explained.point is not None
    assert f"affect    valence {explained.point.valence:+.2f}, arousal {explained.point.arousal:+.2f} (-1 to 1)" in as_text(
        explained
    )
    # Of a model without one nothing is said.
    (other,) = EmotionModel(bundle, device="cpu").explain([TarIndex.open(world_tars).image(0)], max_new_tokens=4)
    assert other.point is None
    assert not other.as_json().keys() & {"valence", "arousal", "dominance"}


@pytest.mark.parametrize("packed", [True, False])
def test_it_stands_in_predictions_and_is_scored_with_no_other_step(
    packed: bool,
    feeling: Path,
    world_tars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not packed:
        monkeypatch.setattr("emo_lightning.models.backbone.Backbone.packs", False)
    by_hand = values(EmotionModel(feeling, device="cpu"), world_tars, 40)
    out = tmp_path / "said.jsonl"
    command = ["predict", str(feeling), str(world_tars), "--out", str(out), "--max-new-tokens", "4", "--accelerator", "cpu"]
    # The heads read at the prompt of another question than is asked.
    assert main([*command, "--devices", "1", "--batch-size", "6", "--limit", "12", "--objectives", "attributes"]) == 0
    found = list(read_jsonl(out, Prediction))
    assert len(found) == 12
    for one in found:
        assert (one.valence, one.arousal) == pytest.approx(by_hand[one.id], abs=1e-4)
        assert one.dominance is None
    about = json.loads((tmp_path / "said.about.json").read_text())
    assert about["affect"].keys() == {"head", "affect"}
    truth = tmp_path / "truth.jsonl"
    rated = [
        {"id": one.id, "valence": {"mean": math.tanh(by_hand[one.id][0]), "low": -1, "high": 1}, "emotion": "awe"}
        for one in found
    ]
    truth.write_text("".join(json.dumps(one) + "\n" for one in rated))
    capsys.readouterr()
    assert main(["eval", str(out), str(truth), "--json", "--resamples", "20"]) == 0
    scores = json.loads(capsys.readouterr().out)["affect"]["arms"]["said"]["valence"]
    assert (scores["images"], scores["from_anchors"], scores["srcc"]["value"]) == (12, 0, pytest.approx(1, abs=1e-3))


def test_pictures_of_another_size_have_none(
    feeling: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(feeling), str(world_tars), "--out", str(tmp_path / "said.jsonl"), "--max-new-tokens", "1"]
    assert main([*command, "--accelerator", "cpu", "--devices", "1", "--limit", "2", "--max-pixels", "7056"]) == 0
    assert "no valence, arousal and dominance: its DES head knows neither" in capsys.readouterr().out
    assert all(one.valence is None for one in read_jsonl(tmp_path / "said.jsonl", Prediction))


def test_a_stage_finds_it_beside_the_head_and_a_folder_takes_it_along(feeling: Path, world_tars: Path, tmp_path: Path) -> None:
    bundle = read_bundle(feeling)
    (tmp_path / "stage").mkdir()
    bundle_stage(tmp_path / "stage", bundle.backbone, Path(bundle.head))
    assert read_bundle(tmp_path / "stage").affect == bundle.affect
    write_folder(bundle, tmp_path / "written")
    (tmp_path / "written").rename(tmp_path / "moved")
    model = EmotionModel(tmp_path / "moved", device="cpu")
    assert json.loads((tmp_path / "moved/emo.json").read_text())["affect"] == "affect"
    assert model.affect is not None
    assert model.affect.dimensions == ["valence", "arousal"]
    picture = TarIndex.open(world_tars).image(0)
    des = EmotionModel(feeling, device="cpu")
    np.testing.assert_allclose(
        list((model.points(model.embed(picture)) or [{}])[0].values()),
        list((des.points(des.embed(picture)) or [{}])[0].values()),
        atol=1e-4,
    )
    shutil.copytree(tmp_path / "moved", tmp_path / "spoilt")
    said = made_of(tmp_path / "spoilt/affect")
    write_made_of(tmp_path / "spoilt/affect", {**said, "head": "0" * 64})
    with pytest.raises(BackboneError, match=r"affect head .* was made with another head"):
        EmotionModel(tmp_path / "spoilt", device="cpu")


def test_a_head_without_one_is_refused(bundle: Path) -> None:
    with pytest.raises(InputError, match=r"model.des_head .*: no affect/ beside it, so it gives no valence"):
        AffectReader(read_bundle(bundle).head)
