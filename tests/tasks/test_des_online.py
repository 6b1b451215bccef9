"""The DES head on a real Qwen2.5-VL that runs along: step by step what a feature cache of the same backbone gives."""

from __future__ import annotations

import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Rating
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.feature_parts import FeatureError
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.supervision import LabelCounts
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.des import DESHead
from emo_lightning.models.loading import load_backbone
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.predict import PredictTask
from tests.made import make_record, write_tar
from tests.models.test_backbone import asked
from tests.tasks.test_sft import trainer

SPLITS = ("train", "val")


def paths(tars: Path) -> dict[str, list[str]]:
    """Training and validation tars."""
    return {split: [f"{tars}/*-{split}-*.tar"] for split in SPLITS}


def online(tars: Path) -> LabelledDataModule:
    """Images with labels."""
    train, val = (paths(tars)[split] for split in SPLITS)
    return LabelledDataModule(train, val, batch_size=5, seed=2)


@pytest.fixture(scope="module")
def cache(world_tars: Path, tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureDataModule:
    """Features of the session's images, extracted as `run: features` does."""
    out = tmp_path_factory.mktemp("features")
    source = QuestionDataModule(paths(world_tars), ["emotion"], batch_size=7)
    trainer(out).test(FeatureTask(BackboneConfig(str(tiny_qwen))), datamodule=source, verbose=False)
    return FeatureDataModule(str(out / "train"), str(out / "val"), batch_size=5, seed=2)


def test_extraction_that_is_run_again_stays_complete(cache: FeatureDataModule, world_tars: Path, tiny_qwen: Path) -> None:
    """A run that was stopped between the last image and the end of its stage: nothing is left to extract, and nothing is lost."""
    out = Path(cache.paths["train"]).parent
    before = {path.name for path in out.glob("*/*")}
    source = QuestionDataModule(paths(world_tars), ["emotion"], batch_size=7)
    trainer(out).test(FeatureTask(BackboneConfig(str(tiny_qwen))), datamodule=source, verbose=False)
    assert {path.name for path in out.glob("*/*")} == before
    assert [len(FeatureCache(out / split)) for split in SPLITS] == [24, 8]


OTHERWISE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"precision": "bf16-mixed"}, "precision 'bf16-mixed'; here it is '32-true'"),
    ({"attention": "eager"}, {}, "attention 'eager'; here it is 'sdpa'"),
    ({"dtype": "bfloat16"}, {}, "dtype 'bfloat16'; here it is 'float32'"),
]


@pytest.mark.parametrize(("backbone", "options", "said"), OTHERWISE, ids=lambda value: str(value)[:20])
def test_a_cache_that_was_computed_otherwise_is_not_taken(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, backbone: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    """Not a finished one, and not one that was begun, wherever `model.out` is shared by two runs."""

    def extract(backbone: dict[str, Any], options: dict[str, Any], limit: int | None) -> None:
        source = QuestionDataModule({"val": paths(world_tars)["val"]}, ["emotion"], batch_size=4, limit=limit)
        task = FeatureTask(BackboneConfig(str(tiny_qwen), **backbone))
        trainer(tmp_path, **options).test(task, datamodule=source, verbose=False)

    extract(backbone, options, 4)
    extract(backbone, options, 4)
    for begun in (False, True):
        if begun:
            (tmp_path / "val/index-00000.json").unlink()
        with pytest.raises(FeatureError, match=rf"part-00000-00000\.safetensors: was computed with {said}"):
            extract({}, {}, 4)


def test_predictions_that_were_computed_otherwise_are_not_gone_on_with(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    def predict(backbone: dict[str, Any], options: dict[str, Any]) -> None:
        source = QuestionDataModule({"val": paths(world_tars)["val"]}, ["emotion"], batch_size=4, limit=2)
        task = PredictTask(BackboneConfig(str(tiny_qwen), **backbone), max_new_tokens=2)
        trainer(tmp_path, **options).test(task, datamodule=source, verbose=False)

    predict({}, {})
    with pytest.raises(InputError, match=r'was begun with attention "sdpa", now it is "eager"'):
        predict({"attention": "eager"}, {})
    with pytest.raises(InputError, match=r'was begun with precision "32-true", now it is "bf16-mixed"'):
        predict({}, {"precision": "bf16-mixed"})
    about = tmp_path / "predictions.about.json"
    noted = json.loads(about.read_text())
    about.write_text(
        json.dumps({key: value for key, value in noted.items() if key not in ("precision", "attention", "compiled")})
    )
    # As an earlier version has left it.
    predict({"attention": "eager"}, {})
    assert json.loads(about.read_text())["attention"] == "eager"


class Steps(pl.Callback):
    """Loss and gradients of every step, validation after every epoch, and the modes of the frozen modules."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.gradients: list[torch.Tensor] = []
        self.metrics: list[dict[str, float]] = []
        self.heads = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DESTask)
        pl_module.train()  # as anybody may; the Trainer itself leaves modes alone
        if pl_module.backbone is not None:
            pl_module.backbone.base.lm_head.register_forward_hook(self._count)

    def _count(self, *_: object) -> None:
        self.heads += 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        assert isinstance(outputs, Mapping)
        assert isinstance(pl_module, DESTask)
        self.losses.append(float(outputs["loss"]))
        self.gradients.append(torch.cat([p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]).clone())
        assert pl_module.head.training
        if pl_module.backbone is not None:
            assert not any(module.training for module in pl_module.backbone.modules())
            assert not any(p.requires_grad or p.grad is not None for p in pl_module.backbone.parameters())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metrics.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")})


def run(out: Path, data: pl.LightningDataModule, backbone: BackboneConfig | None) -> Steps:
    """Two epochs with dropout."""
    steps = Steps()
    task = DESTask(
        DESHeadArgs(dropout=0.2), OptimConfig(lr=1e-3), contrastive_weight=0.2, intensity_weight=0.5, backbone=backbone, seed=4
    )
    saver = ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=1)
    trainer(out, max_epochs=2, callbacks=[steps, saver], enable_checkpointing=True).fit(task, datamodule=data)
    return steps


def test_equals_the_cache_step_by_step(cache: FeatureDataModule, world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    cached = run(tmp_path / "cached", cache, None)
    # As the default of fine-tuning has it: the task freezes whatever is configured.
    along = run(tmp_path / "online", online(world_tars), BackboneConfig(str(tiny_qwen), tuning="lora"))
    assert len(cached.losses) == len(along.losses) == 2 * 5
    assert cached.losses == along.losses
    for step, (a, b) in enumerate(zip(cached.gradients, along.gradients, strict=True)):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=f"step {step}".__add__)
    assert len(cached.metrics) == 2
    for one, other in zip(cached.metrics, along.metrics, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    heads = [DESHead.from_pretrained(tmp_path / mode / "head").state_dict() for mode in ("cached", "online")]
    for name, value in heads[0].items():
        # Adam divides by the gradient's size and so magnifies the rounding of those near zero.
        torch.testing.assert_close(value, heads[1][name], atol=1e-4, rtol=1e-3)
    assert along.heads == 0, "the language-model head must not run"
    state = torch.load(tmp_path / "online" / "last.ckpt", weights_only=True)["state_dict"]
    assert not any(name.startswith("backbone.") for name in state)


def test_no_other_layer_is_kept(world_tars: Path, tiny_qwen: Path) -> None:
    """When the last layer runs, the outputs of the layers that nobody asked for are gone."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen")).eval()
    batch = asked(backbone, world_tars, [0, 1])
    outputs: list[Any] = []
    alive: list[bool] = []
    layers = backbone.base.model.language_model.layers
    for layer in layers:
        layer.register_forward_hook(lambda _m, _i, out: outputs.append(weakref.ref(out[0] if isinstance(out, tuple) else out)))
    layers[-1].register_forward_hook(lambda *_: alive.extend(reference() is not None for reference in outputs[:-1]))
    with torch.no_grad():
        hidden = backbone.hidden_states(batch, 2)
    assert hidden.shape[0] == 2
    assert alive == [False, False, True]


def test_images_need_a_backbone_and_caches_none(
    cache: FeatureDataModule, world_tars: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    head = DESHeadArgs(hidden_size=64)
    with pytest.raises(ValueError, match=r"model\.backbone is null: set model\.backbone\.path"):
        trainer(tmp_path, max_steps=1).fit(DESTask(head), datamodule=online(world_tars))
    with pytest.raises(ValueError, match=r"would compute what the feature cache .*/train' holds; leave it null"):
        trainer(tmp_path, max_steps=1).fit(DESTask(head, backbone=BackboneConfig(str(tiny_qwen))), datamodule=cache)


def test_unlabelled_images_stop_before_the_first_step(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    labelled = online(world_tars).dataset("val").index.record(0)
    tar, _ = write_tar(tmp_path / "val.tar", [labelled.model_copy(update={"emotion": None, "emotion_scores": None})])
    data = LabelledDataModule(paths(world_tars)["train"], [str(tar)], batch_size=5)
    with pytest.raises(ValueError, match=r"no sample of the set 'val' .* has an emotion label"):
        trainer(tmp_path, max_steps=1).fit(DESTask(backbone=BackboneConfig(str(tiny_qwen))), datamodule=data)


def test_equals_itself_with_pictures_out_of_a_cache(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    live = run(tmp_path / "live", online(world_tars), BackboneConfig(str(tiny_qwen)))
    cached = run(tmp_path / "cached", online(world_tars), BackboneConfig(str(tiny_qwen), vision_cache=str(tmp_path / "vision")))
    assert cached.losses == live.losses
    assert cached.metrics == live.metrics
    assert all(torch.equal(a, b) for a, b in zip(cached.gradients, live.gradients, strict=True))


def test_images_with_ratings_alone_are_labelled_in_tars_and_in_caches_of_them(tiny_qwen: Path, tmp_path: Path) -> None:
    """Two with an emotion, one of which is rated; two with a rating alone; one with nothing."""
    rating = {"valence": Rating(mean=7, low=1, high=9)}
    given: list[dict[str, Any]] = [{"emotion": "awe"}, {"emotion": "fear", **rating}, rating, rating, {}]
    tars = {}
    for split in SPLITS:
        records = [make_record(f"{split}{n}", [], split=split, **{"emotion": None, **more}) for n, more in enumerate(given)]
        tars[split], _ = write_tar(tmp_path / f"{split}-000000.tar", records)
    counts = LabelCounts(5, 2, 2, {"valence": 3, "arousal": 0, "dominance": 0}, 3, 2, 1)
    data = LabelledDataModule([str(tars["train"])], [str(tars["val"])], batch_size=2, allow_leaks=True)
    task = DESTask(DESHeadArgs(), OptimConfig(lr=1e-3), va_weight=1.0, backbone=BackboneConfig(str(tiny_qwen)))
    trainer(tmp_path / "run", max_epochs=1).fit(task, datamodule=data)
    assert data.label_counts("train") == counts
    labels = data.summary()["labels"]
    assert labels == {split: {"emotion": 2, "ratings": 3, "ratings_without_emotion": 2} for split in SPLITS}
    assert task.dimensions == ["valence"]

    source = QuestionDataModule({split: [str(tars[split])] for split in SPLITS}, ["emotion"], batch_size=5, allow_leaks=True)
    trainer(tmp_path / "features").test(FeatureTask(BackboneConfig(str(tiny_qwen))), datamodule=source, verbose=False)
    caches = FeatureDataModule(str(tmp_path / "features/train"), str(tmp_path / "features/val"), allow_leaks=True)
    caches.setup("fit")
    assert [caches.label_counts(split) for split in SPLITS] == [counts, counts]
