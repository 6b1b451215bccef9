"""`model.va_weight`: valence and arousal are learnt from people's ratings and, where there are none, from anchors; what is kept of it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from emo_lightning.analysis.affect import affect_scores
from emo_lightning.analysis.probe_predictions import read_arm
from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import BackboneError
from emo_lightning.core.records import EMOTIONS, Prediction, Reference, read_jsonl
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.feature_rows import FeatureRows
from emo_lightning.data.features import FeatureCache, FeatureWriter
from emo_lightning.data.sampler import Slot
from emo_lightning.data.supervision import LabelCounts, Supervision
from emo_lightning.metrics.emotion_space import read_anchors
from emo_lightning.models.affect import AffectHead
from emo_lightning.models.des import DESHead
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.probe import ProbeTask
from tests.tasks.test_des_probe import HIDDEN, LAYERS, trainer_of, write_cache

ANCHORS = read_anchors("ddes")


def _cache(folder: Path, count: int, *, rated: bool) -> str:
    """Images whose class is a direction; where they are rated, people say what the anchors say."""
    directions = torch.randn(8, HIDDEN, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(count)
    with FeatureWriter(folder, LAYERS, HIDDEN, torch.float32, "toy") as writer:
        for i in range(count):
            hidden = torch.randn(LAYERS, 4, HIDDEN, generator=generator) + 2 * directions[i % 8]
            target = [float(c == i % 8) for c in range(8)]
            affect = [*ANCHORS.points[str(EMOTIONS[i % 8])], math.nan] if rated else [math.nan] * 3
            writer.append(f"{folder.name}-{i:03}", hidden, Supervision(target, i % 8, math.nan, affect))
    return str(folder)


def _parts(folder: str) -> list[str]:
    with safe_open(next(Path(folder).glob("part-*.safetensors")), "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize(("rated", "anchors"), [(True, None), (False, "ddes")])
def test_it_is_learnt_and_kept_beside_the_head(tmp_path: Path, rated: bool, anchors: str | None) -> None:
    train, val = _cache(tmp_path / "train", 64, rated=rated), _cache(tmp_path / "val", 24, rated=True)
    assert ("affect" in _parts(train)) == rated
    task = DESTask(DESHeadArgs(dropout=0.0), OptimConfig(lr=1e-2), va_weight=1.0, anchors=anchors)
    trainer = trainer_of(tmp_path / "run", 8)
    trainer.fit(task, datamodule=FeatureDataModule(train, val, batch_size=16))
    logged = trainer.callback_metrics
    assert logged.keys() >= {"val/valence_plcc", "val/valence_ccc", "val/arousal_ccc"}
    assert "val/dominance_ccc" not in logged
    assert logged["val/valence_ccc"] > 0.7
    cache = FeatureCache(val)
    batch = FeatureRows(cache).collate([Slot(n, filler=False) for n in range(len(cache))])
    head, affect = DESHead.from_pretrained(tmp_path / "run/head"), AffectHead.from_pretrained(tmp_path / "run/affect")
    with torch.no_grad():
        said = affect(head(batch["hidden_states"], batch["mask"]))
    plcc = torch.corrcoef(torch.stack([said[:, 0], batch["affect"][:, 0]]))[0, 1]
    assert float(plcc) == pytest.approx(float(logged["val/valence_plcc"]), abs=1e-4)
    assert affect.anchors == (None if anchors is None else ANCHORS.source)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head and its affect head, of images with ratings and no emotion among others."""
    folder = tmp_path_factory.mktemp("mixed")
    for seed, (name, size) in enumerate({"train": 150, "val": 45}.items()):
        write_cache(folder / name, size, seed, rated=True)
    task = DESTask(DESHeadArgs(dropout=0.0), OptimConfig(lr=1e-2), va_weight=1.0)
    data = FeatureDataModule(str(folder / "train"), str(folder / "val"), batch_size=16)
    trainer_of(folder / "run", 6).fit(task, datamodule=data)
    # Of 150 images 16 have no emotion; 8 of these are rated all the same.
    assert data.label_counts("train") == LabelCounts(150, 134, 134, {"valence": 42, "arousal": 17, "dominance": 0}, 42, 8, 8)
    assert data.summary()["labels"]["train"] == {"emotion": 134, "ratings": 42, "ratings_without_emotion": 8}  # type: ignore[index]
    return folder


def _probe(head: Path, out: Path, train: str, val: str, test: str) -> dict[str, Prediction]:
    data = FeatureDataModule(train, val, test, batch_size=16, allow_leaks=True)
    task = ProbeTask(str(head), learning_rates=[3e-2], weight_decays=[1e-3])
    trainer = trainer_of(out, 3)
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    return {one.id: one for one in read_jsonl(out / "predictions.jsonl", Prediction) if one.split == "test"}


def test_what_the_head_gives_stands_in_the_predictions_of_its_probe_and_is_scored(trained: Path, tmp_path: Path) -> None:
    test = write_cache(tmp_path / "test", 45, 2, rated=True)
    found = _probe(trained / "run/head", tmp_path / "probe", str(trained / "train"), str(trained / "val"), test)
    cache = FeatureCache(test)
    batch = FeatureRows(cache).collate([Slot(n, filler=False) for n in range(len(cache))])
    head, affect = DESHead.from_pretrained(trained / "run/head"), AffectHead.from_pretrained(trained / "run/affect")
    # Nobody rated dominance: the layer's third number is as it began, and is no answer.
    assert affect.dimensions == ["valence", "arousal"]
    with torch.no_grad():
        values = affect(head(batch["hidden_states"], batch["mask"]))
    assert found.keys() == set(cache.keys)
    for key, row in zip(cache.keys, values.tolist(), strict=True):
        assert (found[key].valence, found[key].arousal) == pytest.approx(row[:2], abs=1e-5)
        assert found[key].dominance is None
    assert "dominance" not in json.loads((tmp_path / "probe/predictions.jsonl").read_text().splitlines()[0])
    rated = [
        Reference.model_validate({"id": key, "valence": {"mean": point[0], "low": -1, "high": 1}})
        for key, point in zip(cache.keys, batch["affect"].tolist(), strict=True)
        if not math.isnan(point[0])
    ]
    scores = affect_scores({"probe": found}, rated, resamples=50)["arms"]["probe"]["valence"]
    assert (scores["images"], scores["missing"]) == (13, 0)
    assert scores["ccc"]["value"] is not None
    assert scores["ccc"]["value"] > 0.7


def _rated_alone(folder: Path, count: int, seed: int) -> str:
    """Images that people rated and named no emotion of."""
    directions = torch.randn(8, HIDDEN, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    with FeatureWriter(folder, LAYERS, HIDDEN, torch.float32, "toy") as writer:
        for i in range(count):
            hidden = torch.randn(LAYERS, 4, HIDDEN, generator=generator) + 2 * directions[i % 8]
            writer.append(f"{folder.name}-{i:03}", hidden, Supervision(affect=[i % 8 / 4 - 0.9, math.nan, math.nan]))
    return str(folder)


def test_images_with_ratings_and_no_emotion_are_learnt_from_and_are_in_no_accuracy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, val = _rated_alone(tmp_path / "train", 96, 0), _rated_alone(tmp_path / "val", 24, 1)
    with pytest.raises(InputError, match=r"no sample of the set 'train' .* has an emotion label$"):
        trainer_of(tmp_path, 1).fit(DESTask(), datamodule=FeatureDataModule(train, val))
    trainer = trainer_of(tmp_path / "run", 8)
    caplog.set_level("INFO")
    task = DESTask(DESHeadArgs(dropout=0.0), OptimConfig(lr=1e-2), va_weight=1.0)
    trainer.fit(task, datamodule=FeatureDataModule(train, val, batch_size=16))
    assert trainer.callback_metrics["val/valence_ccc"] > 0.7
    assert "val/accuracy" not in trainer.callback_metrics
    assert "train: of 96 images 96 have ratings and no emotion, they count in valence, arousal and dominance" in caplog.text

    # Probed: the labelled images alone are right or wrong; the others have predictions.
    felt, others = (write_cache(tmp_path / f"felt{seed}", 45, seed) for seed in (3, 4))
    found = _probe(tmp_path / "run/head", tmp_path / "probe", felt, others, val)
    assert all(found[key].valence is not None and found[key].emotion is not None for key in FeatureCache(val).keys)
    metrics = json.loads((tmp_path / "probe/metrics.json").read_text())
    assert metrics.keys() == {"val/loss", "val/accuracy", "val/f1", "chosen"}
    assert read_arm([tmp_path / "probe"]).keys() == set()


def test_without_a_weight_it_is_said_that_they_count_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for seed, name in enumerate(("train", "val")):
        write_cache(tmp_path / name, 45, seed, rated=True)
    data = FeatureDataModule(str(tmp_path / "train"), str(tmp_path / "val"))
    trainer_of(tmp_path / "run", 1).fit(DESTask(), datamodule=data)
    assert (
        "train: of 45 images 3 have ratings and no emotion, they count nowhere: model.va_weight is 0; 2 have neither"
        in caplog.text
    )


def test_an_affect_head_of_another_head_is_refused_and_an_old_one_removed(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "run", tmp_path / "run")
    assert AffectHead.beside(tmp_path / "run/head") is not None
    DESHead(HIDDEN).save_pretrained(tmp_path / "run/head")
    with pytest.raises(BackboneError, match="was made with another head"):
        AffectHead.beside(tmp_path / "run/head")
    data = FeatureDataModule(str(trained / "train"), str(trained / "val"))
    trainer_of(tmp_path / "run", 1).fit(DESTask(), datamodule=data)
    assert AffectHead.beside(tmp_path / "run/head") is None


def test_a_weight_with_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    train, val = (write_cache(tmp_path / name, 16, seed) for seed, name in enumerate(("train", "val")))
    with pytest.raises(InputError, match=r"model.va_weight: no training image has a rating of valence, arousal or dominance"):
        trainer_of(tmp_path, 1).fit(DESTask(va_weight=1.0), datamodule=FeatureDataModule(train, val))
    with pytest.raises(InputError, match="dimensions: found mood; expected some of valence, arousal, dominance"):
        AffectHead(4, dimensions=["mood"])


def test_anchors_that_nothing_asks_for_and_anchors_that_are_none() -> None:
    with pytest.raises(InputError, match=r"model.anchors is 'ddes', and model.va_weight 0"):
        DESTask(anchors="ddes")
    with pytest.raises(InputError, match="one of ours: ddes, eemo_logic"):
        DESTask(va_weight=1.0, anchors="none")
