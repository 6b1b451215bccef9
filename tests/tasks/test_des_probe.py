"""DESTask and ProbeTask in real Trainer runs on features whose classes can be told apart."""

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Prediction, read_jsonl
from emo_lightning.data.batches import FeatureBatch
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.features import FeatureCache, FeatureSample, FeatureWriter, collate_features
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.supervision import Supervision
from emo_lightning.models.affect import AffectHead
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.des import DESHead
from emo_lightning.models.des_losses import DES_LOSSES, DESLoss, LossInputs
from emo_lightning.models.probe import LinearProbes
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.finite import NotFiniteError
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.probe import ProbeTask
from tests.ranks import run_ranks

LAYERS, HIDDEN = 4, 16
SIZES = {"train": 150, "val": 45, "test": 45, "heldout": 20}


def write_cache(folder: Path, count: int, seed: int, noise: float = 1.0, labelled: bool = True, rated: bool = False) -> str:
    """Images whose class is a direction that one in three tokens carries; every ninth has no label.

    Where they are rated, every third is: its valence goes by the class, its arousal is known of every sixth alone. Among them are those
    without an emotion, but for one in two.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(8, HIDDEN, generator=torch.Generator().manual_seed(99))
    with FeatureWriter(folder, LAYERS, HIDDEN, torch.float32, "toy") as writer:
        for i in range(count):
            emotion, tokens = i % 8, 3 + i % 5
            hidden = noise * torch.randn(LAYERS, tokens, HIDDEN, generator=generator)
            hidden[:, ::3] += 2 * directions[emotion]
            soft = [0.9 if c == emotion else 0.1 / 7 for c in range(8)]
            known = labelled and i % 9 != 8
            affect = [math.nan] * 3
            if rated and i % 3 == 2 and i % 18 != 17:
                affect[:2] = [emotion / 4 - 0.9, 0.5 - emotion / 8 if i % 2 else math.nan]
            label = Supervision(soft, emotion, 1.0 + emotion, affect) if known else Supervision(affect=affect)
            writer.append(f"{seed}-{i:04}", hidden, label)
    return str(folder)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("caches")
    return {name: write_cache(root / name, size, seed) for seed, (name, size) in enumerate(SIZES.items())}


def data_of(caches: dict[str, str], **arguments: object) -> FeatureDataModule:
    given: dict[str, Any] = dict(arguments)
    return FeatureDataModule(
        caches["train"], caches["val"], caches["test"], {"heldout": caches["heldout"]}, batch_size=16, **given
    )


def trainer_of(folder: Path, epochs: int, **arguments: object) -> pl.Trainer:
    options: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        num_sanity_val_steps=0,
        **(options | {"enable_checkpointing": False} | arguments),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return DESHead.from_pretrained(folder / "head").state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], *, atol: float, rtol: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], msg=f"{name}: ".__add__, atol=atol, rtol=rtol)


class LossLog(pl.Callback):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: STEP_OUTPUT, batch: FeatureBatch, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        self.losses.append(float(outputs["loss"]))


@pytest.fixture(scope="module")
def trained(caches: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("des")
    task = DESTask(DESHeadArgs(des_dim=12), OptimConfig(lr=1e-2), contrastive_weight=0.1, intensity_weight=0.5)
    checkpoint = ModelCheckpoint(folder, monitor="val/loss", filename="best")
    trainer = trainer_of(folder, 12, callbacks=[checkpoint], enable_checkpointing=True)
    trainer.fit(task, datamodule=data_of(caches))
    assert trainer.callback_metrics["val/accuracy"] > 85
    state = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    same(weights(folder), {k.removeprefix("head."): v for k, v in state.items() if k.startswith("head.")}, atol=0, rtol=0)
    return folder


def scores_of(truth: torch.Tensor, predicted: torch.Tensor) -> dict[str, float]:
    """Percent, from the confusion matrix; all eight classes occur."""
    confusion = np.zeros((8, 8))
    np.add.at(confusion, (truth.numpy(), predicted.numpy()), 1)
    hits, true, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    return {
        "accuracy": 100 * hits.sum() / confusion.sum(),
        "precision": 100 * np.mean(hits / np.maximum(said, 1)),
        "recall": 100 * np.mean(hits / true),
        "f1": 100 * np.mean(2 * hits / (true + said)),
    }


def test_probe_is_chosen_on_validation_and_reported_on_test(trained: Path, caches: dict[str, str], tmp_path: Path) -> None:
    task = ProbeTask(str(trained / "head"), learning_rates=[1e-7, 3e-2], weight_decays=[0.0, 0.1])
    data, trainer = data_of(caches), trainer_of(tmp_path, 5)
    trainer.fit(task, datamodule=data)
    logged = float(trainer.callback_metrics["val/loss"])
    trainer.test(task, datamodule=data, verbose=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["val/loss"] == pytest.approx(logged)
    names = [f"{part}/{name}" for part in ("test", "heldout") for name in ("accuracy", "precision", "recall", "f1")]
    assert set(metrics) == {*names, "val/loss", "val/accuracy", "val/f1", "chosen"}
    assert metrics["test/accuracy"] > 85

    # The choice: the lowest validation cross-entropy.
    val = task.embedded["val"]
    truth = torch.tensor([label.emotion for label in val.labels])
    logits = task.probes(val.des)[:, truth >= 0].detach()
    losses = [torch.nn.functional.cross_entropy(each, truth[truth >= 0]).item() for each in logits]
    best = int(np.argmin(losses))
    rate, decay = task.grid[best]
    assert metrics["chosen"] == {"learning_rate": rate, "weight_decay": decay}
    scores = scores_of(truth[truth >= 0], logits[best].argmax(-1))
    assert metrics["val/loss"] == pytest.approx(losses[best], rel=1e-5)
    assert metrics["val/accuracy"] == pytest.approx(scores["accuracy"], abs=1e-3)
    assert metrics["val/f1"] == pytest.approx(scores["f1"], abs=1e-3)

    # The files alone give the same numbers: head, probe, and DES of every evaluation image.
    table = EmbeddingTable.read(tmp_path / "des.parquet")
    head, probe = DESHead.from_pretrained(trained / "head"), LinearProbes.from_pretrained(tmp_path / "probe")
    assert probe.grid == [(metrics["chosen"]["learning_rate"], metrics["chosen"]["weight_decay"])]
    with torch.no_grad():
        for part in ("test", "heldout"):
            cache = FeatureCache(caches[part])
            batch = collate_features([cache[i] for i in range(len(cache))])
            rows = [i for i, split in enumerate(table.split) if split == part]
            assert [table.id[i] for i in rows] == cache.keys
            np.testing.assert_allclose(table.des[rows], head(batch["hidden_states"], batch["mask"]), atol=1e-5)
            known = batch["emotion"] >= 0
            assert [table.emotion[i] for i in rows] == [EMOTIONS[e] if e >= 0 else None for e in batch["emotion"].tolist()]
            predicted = probe(torch.from_numpy(table.des[rows]))[0].argmax(-1)
            for name, value in scores_of(batch["emotion"][known], predicted[known]).items():
                assert metrics[f"{part}/{name}"] == pytest.approx(value, abs=1e-3)


def test_probe_that_was_not_fitted_is_not_reported(trained: Path, caches: dict[str, str], tmp_path: Path) -> None:
    task = ProbeTask(str(trained / "head"))
    with pytest.raises(ValueError, match="no probe has been chosen"):
        trainer_of(tmp_path, 1).test(task, datamodule=data_of(caches), verbose=False)


def test_probe_statistics_are_those_of_the_labelled_training_images(
    trained: Path, caches: dict[str, str], tmp_path: Path
) -> None:
    task = ProbeTask(str(trained / "head"), learning_rates=[1e-2], weight_decays=[0.0])
    trainer_of(tmp_path, 1).fit(task, datamodule=data_of(caches))
    cache, head = FeatureCache(caches["train"]), DESHead.from_pretrained(trained / "head")
    batch = collate_features([cache[i] for i in range(len(cache))])
    des = head(batch["hidden_states"], batch["mask"]).detach()[batch["emotion"] >= 0]
    torch.testing.assert_close(task.probes.mean, des.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(1 / task.probes.scale, des.std(0, correction=0), atol=1e-5, rtol=1e-4)


def test_resumed_fit_equals_the_uninterrupted_one(caches: dict[str, str], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"head": DESHeadArgs(dropout=0.3), "contrastive_weight": 0.1}
    whole, first, second = LossLog(), LossLog(), LossLog()
    trainer_of(tmp_path / "whole", 3, callbacks=[whole]).fit(DESTask(**arguments), datamodule=data_of(caches))

    class Stop(pl.Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, module: pl.LightningModule, outputs: STEP_OUTPUT, batch: FeatureBatch, batch_idx: int
        ) -> None:
            if trainer.global_step == 13:  # in the middle of the second epoch
                trainer.save_checkpoint(tmp_path / "mid.ckpt")
                trainer.should_stop = True
                raise KeyboardInterrupt

    torch.manual_seed(1234)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer_of(tmp_path / "cut", 3, callbacks=[first, Stop()]).fit(DESTask(**arguments), datamodule=data_of(caches))
    trainer_of(tmp_path / "rest", 3, callbacks=[second]).fit(
        DESTask(**arguments), datamodule=data_of(caches), ckpt_path=tmp_path / "mid.ckpt", weights_only=True
    )
    assert len(whole.losses) == 30
    assert first.losses[:13] + second.losses == whole.losses
    same(weights(tmp_path / "rest"), weights(tmp_path / "whole"), atol=0, rtol=0)


def built(caches: dict[str, str], **weights: float) -> DESTask:
    task = DESTask(DESHeadArgs(hidden_size=HIDDEN, dropout=0.0), **cast(dict[str, Any], weights))
    task.configure_model()
    return task


def test_fillers_change_neither_loss_nor_gradient(caches: dict[str, str]) -> None:
    cache = FeatureCache(caches["train"])
    task = built(caches, contrastive_weight=0.5, intensity_weight=0.5)
    results = []
    for fillers in (0, 3):
        samples = [cache[i] for i in range(10)] + [cache[20 + i] for i in range(fillers)]
        for sample in samples[10:]:
            sample.filler = True
        task.zero_grad()
        total, count = task._step(collate_features(samples), "train")
        total.backward()
        results.append(
            (total.detach(), count, {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(results[0][0], results[1][0])
    assert int(results[0][1]) == int(results[1][1]) == 9  # one of the ten has no label
    same(results[0][2], results[1][2], atol=1e-5, rtol=1e-4)


def test_micro_batches_equal_one_batch(caches: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen batches of ten, three per step, against five of thirty, in the same order."""
    outcomes = []
    for size, accumulate in ((30, 1), (10, 3)):
        data = FeatureDataModule(caches["train"], caches["val"], batch_size=size)
        monkeypatch.setattr(data, "train_dataloader", partial(data.loader, "train"))
        folder = tmp_path / str(size)
        task = DESTask(DESHeadArgs(dropout=0.0), intensity_weight=0.5)
        # Adam divides by the gradient's size: in float32 the rounding of a near-zero gradient would show as 1e-5 of a weight.
        trainer_of(folder, 1, accumulate_grad_batches=accumulate, precision="64-true").fit(task, datamodule=data)
        outcomes.append(weights(folder))
    same(*outcomes, atol=1e-6, rtol=1e-5)


def test_a_new_loss_is_one_function_and_one_entry(
    caches: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: an embedding should be short, and its readout should give the class's number."""

    def short(inputs: LossInputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        assert inputs.readout is not None
        assert inputs.readout.shape == (len(inputs.des), 3)
        size = inputs.des.square().sum(-1) + inputs.readout.square().sum(-1)
        return torch.where(inputs.counted, size, 0).sum(), None

    monkeypatch.setitem(DES_LOSSES, "short", DESLoss(short, readout=3))
    lengths = []
    for name, losses in (("without", None), ("with", {"short": 0.1})):
        task = DESTask(DESHeadArgs(dropout=0.0), OptimConfig(lr=1e-2), losses=losses)
        trainer_of(tmp_path / name, 2).fit(task, datamodule=data_of(caches))
        cache = FeatureCache(caches["val"])
        batch = collate_features([cache[i] for i in range(len(cache))])
        head = DESHead.from_pretrained(tmp_path / name / "head")
        lengths.append(float(head(batch["hidden_states"], batch["mask"]).detach().norm(dim=-1).mean()))
    assert lengths[1] < 0.8 * lengths[0]
    # Not part of the head that is kept, but of a checkpoint.
    assert "short.weight" in task.state_dict()
    assert not any("short" in key for key in weights(tmp_path / "with"))


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"ordinal": 1.0}, r"model\.losses: found 'ordinal'; allowed: none"),
        ({"contrastive": 1.0}, r"'contrastive' has a key of its own; set model\.contrastive_weight"),
        ({"intensity": 1.0}, r"'intensity' has a key of its own; set model\.intensity_weight"),
    ],
)
def test_a_loss_that_there_is_not_is_refused(losses: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DESTask(losses=losses)


def test_a_negative_weight_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DES_LOSSES, "short", DESLoss(lambda inputs: (inputs.des.sum(), None)))
    with pytest.raises(InputError, match=r"model\.losses\.short is -1; expected at least 0"):
        DESTask(losses={"short": -1})
    with pytest.raises(InputError, match=r"model\.contrastive_weight is -1"):
        DESTask(contrastive_weight=-1)


def test_a_fusion_that_is_another_under_a_second_name_is_not_trained() -> None:
    with pytest.raises(InputError, match=r"model\.head\.fusion is 'cross'; allowed: both, self, queries, none"):
        DESTask(head=DESHeadArgs(fusion="cross"))  # type: ignore[arg-type]


class ToyBackbone(nn.Module):
    """Token ids to hidden states; dropout shows whether it stays in eval mode."""

    hidden_size = HIDDEN

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.embedding = nn.Embedding.from_pretrained(torch.randn(12, HIDDEN, generator=generator), freeze=False)
        self.dropout = nn.Dropout(0.5)

    def hidden_states(self, batch: dict, num_layers: int) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        hidden = self.dropout(self.embedding(batch["input_ids"]))
        return torch.stack([hidden * (layer + 1) + layer for layer in range(6)][-num_layers:])

    def features(self, batch: dict, num_layers: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.hidden_states(batch, num_layers), batch["attention_mask"].bool()


def ids_of(index: int) -> torch.Tensor:
    """Token ids of image `index`: the first tells its class."""
    return torch.tensor([index % 8, *[8 + (index * k) % 4 for k in range(1, 2 + index % 4)]])


class OnlineData(pl.LightningDataModule):
    """Model inputs padded on the left, in the order of the cached run."""

    def __init__(self, cached: FeatureDataModule) -> None:
        super().__init__()
        self.cached = cached

    def train_batches(self, world_size: int) -> int:
        return self.cached.train_batches(world_size)

    def loader(self, name: str, shuffle: bool) -> ResumableLoader:
        def collate(samples: list[FeatureSample]) -> dict[str, Any]:
            batch: dict[str, Any] = dict(collate_features(samples))
            rows = [ids_of(int(key)) for key in batch["key"]]
            width = max(map(len, rows))
            batch["input_ids"] = torch.stack([nn.functional.pad(row, (width - len(row), 0), value=11) for row in rows])
            batch["attention_mask"] = torch.stack([(torch.arange(width) >= width - len(row)).long() for row in rows])
            del batch["hidden_states"], batch["mask"]
            return batch

        cache = self.cached.caches[name]
        return ResumableLoader(cache, EpochBatches(len(cache), 8, seed=0, shuffle=shuffle), collate_fn=collate)

    def train_dataloader(self) -> ResumableLoader:
        return self.loader("train", True)

    def val_dataloader(self) -> ResumableLoader:
        return self.loader("val", False)


def test_online_equals_cached(tmp_path: Path) -> None:
    paths = {}
    for name, indices in (("train", range(40)), ("val", range(40, 56))):
        paths[name] = str(tmp_path / name)
        with FeatureWriter(paths[name], LAYERS, HIDDEN, torch.float32, "toy") as writer, torch.no_grad():
            for i in indices:
                hidden = ToyBackbone().eval().hidden_states({"input_ids": ids_of(i)[None]}, LAYERS)[:, 0]
                writer.append(f"{i:03}", hidden, Supervision([float(c == i % 8) for c in range(8)], i % 8, math.nan))
    data = FeatureDataModule(paths["train"], paths["val"], batch_size=8)
    runs = {}
    for mode in ("cached", "online"):
        task = DESTask(DESHeadArgs(dropout=0.0), seed=3)
        log, folder = LossLog(), tmp_path / mode
        source: pl.LightningDataModule = data
        if mode == "online":
            task.backbone, source = cast(Backbone, ToyBackbone()), OnlineData(data)
        trainer = trainer_of(folder, 2, callbacks=[log, ModelCheckpoint(folder, save_last=True)], enable_checkpointing=True)
        trainer.fit(task, datamodule=source)
        runs[mode] = (torch.tensor(log.losses), weights(folder), trainer.callback_metrics["val/loss"])
    torch.testing.assert_close(runs["cached"][0], runs["online"][0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(runs["cached"][2], runs["online"][2], atol=1e-5, rtol=1e-5)
    same(runs["cached"][1], runs["online"][1], atol=1e-4, rtol=1e-3)  # Adam magnifies rounding of small gradients

    # The frozen backbone: untouched, in eval mode, not in the checkpoint, which loads all the same.
    task.train()
    assert task.backbone is not None
    assert not task.backbone.training
    assert not any(p.requires_grad for p in task.backbone.parameters())
    state = torch.load(tmp_path / "online" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("backbone.") for name in state)
    task.load_state_dict(state)
    state.pop("classifier.bias")
    with pytest.raises(RuntimeError, match=r"tensors missing \['classifier.bias'\]"):
        task.load_state_dict(state)


def test_sets_without_a_label_and_wrong_shapes_stop_before_the_first_step(
    trained: Path, caches: dict[str, str], tmp_path: Path
) -> None:
    bare = write_cache(tmp_path / "bare", 6, 9, labelled=False)
    with pytest.raises(ValueError, match=r"no sample of the set 'val' .* has an emotion label"):
        trainer_of(tmp_path, 1).fit(DESTask(), datamodule=FeatureDataModule(caches["train"], bare))
    with pytest.raises(ValueError, match=r"has 4 layers; model.head.num_layers is 5"):
        trainer_of(tmp_path, 1).fit(DESTask(DESHeadArgs(num_layers=5)), datamodule=data_of(caches))
    with FeatureWriter(tmp_path / "narrow", LAYERS, 6, torch.float32, "toy") as writer:
        writer.append("a", torch.ones(LAYERS, 2, 6), Supervision(emotion=1))
    narrow = FeatureDataModule(str(tmp_path / "narrow"), str(tmp_path / "narrow"), allow_leaks=True)
    with pytest.raises(ValueError, match=r"has 4 layers of width 6; the DES head .* needs 4 of width 16"):
        trainer_of(tmp_path, 1).fit(ProbeTask(str(trained / "head")), datamodule=narrow)
    with pytest.raises(ValueError, match="the caches differ"):
        FeatureDataModule(caches["train"], str(tmp_path / "narrow")).setup("fit")


def train_and_test(out: Path, train: str, val: str, world: int) -> None:
    """One rank's part of a head and of its probe."""
    many = {"devices": 2, "strategy": "ddp"} if world == 2 else {"devices": 1}
    data = FeatureDataModule(train, val, test=val, batch_size=24 // world)
    task = DESTask(DESHeadArgs(dropout=0.0), OptimConfig(lr=1e-2), contrastive_weight=0.3, intensity_weight=0.5, va_weight=0.7)
    fit = trainer_of(out / "des", 2, precision="64-true", **many)
    fit.fit(task, datamodule=data)
    if fit.is_global_zero:
        metrics = {k: float(v) for k, v in fit.callback_metrics.items() if k.startswith("val/")}
        (out / "val.json").write_text(json.dumps(metrics))
    probe = ProbeTask(str(out / "des" / "head"), learning_rates=[1e-2], weight_decays=[0.1])
    trainer_of(out / "probe", 2, precision="64-true", **many).fit(probe, datamodule=data)
    trainer_of(out / "probe", 2, precision="64-true", **many).test(probe, datamodule=data, verbose=False)


@pytest.mark.slow
def test_two_ranks_equal_one(tmp_path: Path) -> None:
    """150 images in global batches of 24: the last steps are uneven over ranks, and images without label, or with a rating, unevenly spread."""
    caches = {name: write_cache(tmp_path / name, size, seed, rated=True) for seed, (name, size) in enumerate(SIZES.items())}
    found, affect, said = {}, {}, {}
    for world in (2, 1):
        out = tmp_path / str(world)
        work = partial(train_and_test, out, caches["train"], caches["val"], world)
        if world == 2:
            run_ranks(work)
        else:
            work()
        table = EmbeddingTable.read(out / "probe" / "des.parquet")
        metrics = json.loads((out / "probe" / "metrics.json").read_text())
        found[world] = (weights(out / "des"), json.loads((out / "val.json").read_text()), metrics, table)
        affect[world] = AffectHead.from_pretrained(out / "des" / "affect").state_dict()
        said[world] = {p.id: (p.valence, p.arousal) for p in read_jsonl(out / "probe" / "predictions.jsonl", Prediction)}
    # In double precision, as Adam magnifies rounding: a wrong weight of a rank's images would show in the first digits.
    same(found[1][0], found[2][0], atol=1e-8, rtol=1e-6)
    same(affect[1], affect[2], atol=1e-8, rtol=1e-6)
    assert found[2][1].keys() >= {"val/valence_plcc", "val/valence_ccc", "val/arousal_plcc", "val/arousal_ccc"}
    assert found[2][1] == pytest.approx(found[1][1], abs=1e-5)
    assert said[1].keys() == said[2].keys()
    for key, values in said[1].items():
        assert said[2][key] == pytest.approx(values, abs=1e-4)
    assert found[2][2].pop("chosen") == found[1][2].pop("chosen")
    assert found[2][2] == pytest.approx(found[1][2], abs=1e-3)
    assert found[1][3].id == found[2][3].id
    np.testing.assert_allclose(found[1][3].des, found[2][3].des, atol=1e-4)


class LoseWeights(pl.Callback):
    """Has a weight be no number when a validation begins, as a step too wide leaves it."""

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DESTask)
        pl_module.classifier.weight.data.fill_(math.nan)


def validate_without_numbers(out: Path, train: str, val: str) -> None:
    """One rank's part: no loss of the validation is a number, on either rank."""
    run = trainer_of(out, 1, callbacks=[LoseWeights()], devices=2, strategy="ddp")
    message = (
        r"step 5: 1 of \d+ weights are not finite, first: classifier\.weight; they are not saved\. "
        r"Samples of the step before: 0-\d+, .* The last checkpoint before it is kept"
    )
    with pytest.raises(NotFiniteError, match=message):
        run.fit(DESTask(DESHeadArgs(dropout=0.0)), datamodule=FeatureDataModule(train, val, batch_size=15))


def test_two_ranks_whose_validation_is_no_number_say_so(caches: dict[str, str], tmp_path: Path) -> None:
    """And not that the images have no labels."""
    run_ranks(partial(validate_without_numbers, tmp_path, caches["train"], caches["val"]))
