"""A number that means nothing is refused by its config key, not by what breaks on it later (or nothing does)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.core.emotions import intensity_level
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.experiment.arguments import problems
from emo_lightning.experiment.stage import Stage
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.probe import LinearProbes
from emo_lightning.report.mds_page import write_mds_page
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.probe import ProbeTask

MODULES: dict[Callable[..., object], dict[str, Any]] = {
    ConversationDataModule: {"train": ["a"], "val": ["b"], "objectives": {"emotion": 1.0}},
    QuestionDataModule: {"sets": {"a": ["a"]}, "objectives": ["emotion"]},
    FeatureDataModule: {"train": "a", "val": "b"},
    LabelledDataModule: {"train": ["a"], "val": ["b"]},
}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
@pytest.mark.parametrize(("key", "value", "least"), [("batch_size", 0, 1), ("num_workers", -1, 0)])
def test_of_every_data_module(module: Callable[..., object], key: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.{key}: found {value}; expected at least {least}"):
        module(**MODULES[module], **{key: value})


@pytest.mark.parametrize("module", [ConversationDataModule, QuestionDataModule])
@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_leaves_nothing(module: Callable[..., object], limit: int) -> None:
    with pytest.raises(ValueError, match=rf"data\.limit: found {limit}; expected at least 1"):
        module(**MODULES[module], limit=limit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": -1.0}, r"optim\.lr: found -1\.0; expected 0 or more"),
        ({"merger_lr": float("nan")}, r"optim\.merger_lr: found nan"),
        ({"weight_decay": -0.1}, r"optim\.weight_decay: found -0\.1"),
        ({"warmup": 3.0}, r"optim\.warmup: found 3\.0; expected a share"),
        ({"final": -0.5}, r"optim\.final: found -0\.5"),
        ({"betas": (0.9, 1.0)}, r"optim\.betas: found \[0\.9, 1\.0\]"),
    ],
)
def test_of_the_optimiser(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimConfig(**change)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LoRA(rank=0), "lora: found rank 0"),
        (lambda: LoRA(dropout=1.0), r"lora\.dropout: found 1\.0"),
        (lambda: BackboneConfig("m", max_pixels=-5), r"backbone\.max_pixels: found -5"),
        (lambda: PredictTask(BackboneConfig("m"), max_new_tokens=0), r"model\.max_new_tokens: found 0"),
        *((partial(ProbeTask, "head", momentum=value), r"model\.momentum: found") for value in (-0.1, 1.0, math.nan)),
        *((partial(LinearProbes, 4, 8, [(0.1, value)]), "grid holds") for value in (math.nan, math.inf, -1.0)),
        *((partial(LinearProbes, 4, 8, [(value, 0.1)]), "grid holds") for value in (math.nan, math.inf, 0.0)),
        *((partial(intensity_level, value), "is outside 1–10") for value in (math.nan, math.inf, -math.inf, 0.4, 10.5)),
        *(
            (partial(write_mds_page, Path("p.html"), {}, None, megabytes=value), "megabytes")
            for value in (math.nan, math.inf, -1.0)
        ),
    ],
)
def test_of_the_model(make: Callable[[], object], message: str) -> None:
    with pytest.raises((BackboneError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("key", "value", "at"),
    [
        ("data.batch_size", "5", "data.batch_size"),
        ("model.optim", {"lr": "1e-3"}, "model.optim.lr"),
        ("model.optim", {"betas": ["0.9", 0.99]}, "model.optim.betas[0]"),
        ("model.head", {"num_layers": "4"}, "model.head.num_layers"),
        ("trainer.enable_progress_bar", "false", "trainer.enable_progress_bar"),
        ("trainer.limit_train_batches", "0.5", "trainer.limit_train_batches"),
        ("data.extra", "null", "data.extra"),
        ("seed_everything", "3", "seed_everything"),
        (
            "trainer.callbacks",
            [
                {
                    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                    "init_args": {"monitor": "val/loss", "patience": "3"},
                }
            ],
            "trainer.callbacks[0].init_args.patience",
        ),
    ],
)
def test_text_is_no_number(key: str, value: object, at: str) -> None:
    config: dict[str, Any] = {"trainer": {}, "model": {}, "data": {"train": "a", "val": "b"}}
    *above, last = key.split(".")
    (config[above[0]] if above else config)[last] = value
    (found,) = problems(Stage("des", "des", "", config, Path("out")))
    assert found.startswith(f"{at}: found the text '")


def test_texts_that_are_meant_as_texts() -> None:
    config = {
        "trainer": {"devices": "2", "max_time": "00:01:00:00", "accelerator": "cpu"},
        "data": {"train": "5", "val": "true"},
    }
    assert problems(Stage("des", "des", "", config, Path("out"))) == []
