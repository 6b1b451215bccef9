"""A data module and its task fit together, or the run stops before anything is opened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.module import DataModule
from emo_lightning.data.pairs import PairDataModule
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.tasks.clip import CLIPTask
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.probe import ProbeTask
from emo_lightning.tasks.sft import SFTTask

MODULES: list[DataModule[Any]] = [
    ConversationDataModule(["no.tar"], ["no.tar"], {"emotion": 1.0}),
    QuestionDataModule({"images": ["no.tar"]}, ["emotion"]),
    LabelledDataModule(["no.tar"], ["no.tar"]),
    RolloutDataModule(["no.tar"], ["no.tar"]),
    PairDataModule(["no.tar"], ["no.tar"]),
    FeatureDataModule("no", "no"),
]
TASKS: dict[type, set[type[LightningModule]]] = {
    ConversationDataModule: {SFTTask},
    QuestionDataModule: {PredictTask, FeatureTask},
    LabelledDataModule: {SFTTask, PredictTask, FeatureTask, DESTask, GRPOTask},
    RolloutDataModule: {GRPOTask},
    PairDataModule: {CLIPTask},
    FeatureDataModule: {DESTask, ProbeTask},
}


def attached(data: DataModule[Any], task: object) -> DataModule[Any]:
    """As the Trainer does it."""
    data.trainer = SimpleNamespace(lightning_module=task, world_size=1, global_rank=0)  # type: ignore[assignment]
    return data


@pytest.mark.parametrize("data", MODULES, ids=lambda data: type(data).__name__)
@pytest.mark.parametrize("task", [SFTTask, PredictTask, FeatureTask, CLIPTask, DESTask, ProbeTask, GRPOTask])
def test_which_task_reads_from_which_module(data: DataModule[Any], task: type[LightningModule]) -> None:
    made: object = task.__new__(task)
    try:
        if task in TASKS[type(data)]:
            assert attached(data, made).task is made
        else:
            with pytest.raises(TypeError, match=f"{type(data).__name__} needs a task that is a {data.task_type.__name__}"):
                attached(data, made).setup("fit")
    finally:
        data.trainer = None


def test_what_a_task_lacks_is_named_before_a_tar_is_opened(tmp_path: Path) -> None:
    class Misspelt:
        def backbone_inputs(self) -> None: ...

        def want_distributions(self) -> bool:
            return True

    data = attached(ConversationDataModule([str(tmp_path)], [str(tmp_path)], {"emotion": 1.0}), Misspelt())
    with pytest.raises(TypeError, match=r"is a LearnsAnswers; Misspelt has no pictures, wants_distributions$"):
        data.setup("fit")


def test_without_a_trainer_there_is_no_task() -> None:
    with pytest.raises(RuntimeError, match="loaders are made by the Trainer"):
        _ = ConversationDataModule(["no.tar"], ["no.tar"], {"emotion": 1.0}).task
