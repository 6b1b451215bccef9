"""A question that is longer than `data.max_length` is refused before anything is computed, whatever task asks it, and whatever set it is of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.data.chat import OBJECTIVES
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.lengths import question_lengths
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_frozen
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.grpo_config import Rewards
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.predict import PredictTask
from tests.made import make_record, write_tar
from tests.tasks.test_grpo import tars
from tests.tasks.test_sft import trainer


def collator(model: Path, *, packed: bool = True) -> Collator:
    backbone = load_frozen(BackboneConfig(str(model)))
    return Collator(backbone.processor, backbone.model_type, answers=False, packed=packed)


@pytest.mark.parametrize("packed", [True, False])
def test_lengths_are_those_of_the_batches(world_tars: Path, tiny_qwen: Path, packed: bool) -> None:
    index, collate = TarIndex.open(tars(world_tars, "train")), collator(tiny_qwen, packed=packed)
    asked = [OBJECTIVES[name].keys for name in ("emotion", "attributes")]
    found = question_lengths(index, asked, collate)
    assert len(set(found.tolist())) > 1
    for row in range(len(index)):
        made = [collate([ImageQuestion("a", index.image(row), keys)])["input_ids"].shape[1] for keys in asked]
        assert found[row] == max(made)


def train_head(short: list[str], long: list[str], model: Path, limit: int, run: pl.Trainer) -> None:
    task = DESTask(backbone=BackboneConfig(str(model)))
    run.fit(task, datamodule=LabelledDataModule(short, long, max_length=limit, allow_leaks=True))


def learn_by_reward(short: list[str], long: list[str], model: Path, limit: int, run: pl.Trainer) -> None:
    task = GRPOTask(BackboneConfig(str(model), tuning="full"), OptimConfig(), rewards=Rewards(emotion=1.0))
    run.fit(task, datamodule=RolloutDataModule(short, short, {"elsewhere": long}, max_length=limit, allow_leaks=True))


def predict(short: list[str], long: list[str], model: Path, limit: int, run: pl.Trainer) -> None:
    task = PredictTask(BackboneConfig(str(model)))
    run.test(task, datamodule=QuestionDataModule({"short": short, "long": long}, ["emotion"], max_length=limit))


@pytest.mark.parametrize(
    ("compute", "source"), [(train_head, "val"), (learn_by_reward, "others.elsewhere"), (predict, "sets.long")]
)
def test_it_is_named_before_the_first_step(
    tiny_qwen: Path,
    tmp_path: Path,
    compute: Callable[[list[str], list[str], Path, int, pl.Trainer], None],
    source: str,
) -> None:
    """Of a set that is met last."""
    sizes = {"short": [(40, 40), (50, 40)], "long": [(40, 40), (84, 84), (50, 40)]}
    given = {
        name: [make_record(f"{name}-{n}", emotion="awe", width=w, height=h, split="train") for n, (w, h) in enumerate(of_set)]
        for name, of_set in sizes.items()
    }
    short, long = ([str(write_tar(tmp_path / f"{name}.tar", records)[0])] for name, records in given.items())
    keys, collate = [OBJECTIVES["emotion"].keys], collator(tiny_qwen)
    most = int(question_lengths(TarIndex.open(long), keys, collate).max())
    assert question_lengths(TarIndex.open(short), keys, collate).max() < most
    run = trainer(tmp_path, max_steps=1, max_epochs=-1)
    expected = (
        rf"data\.max_length: found {most - 1}; 1 of the 3 samples of data\.{source} is longer: 'long-1' \({most} tokens\)"
    )
    with pytest.raises(InputError, match=expected):
        compute(short, long, tiny_qwen, most - 1, run)
    assert run.global_step == 0
