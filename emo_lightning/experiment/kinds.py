"""The kinds of stage: what `run: KIND` in an experiment's YAML stands for.

Which file does a kind live in? Each row of `KINDS` says so, as "module:name". What trains or asks a model is a LightningModule of
`emo_lightning/tasks` with a data module of `emo_lightning/data`. Everything else is one function `KIND_stage` in `emo_lightning/stages`,
or, where it makes the demo's data, in `data_prep/demo`. Either way the YAML's keys are the arguments of its signature.

Modules stand here as text so that an experiment is read and checked in part before torch is loaded; `tests/experiment/test_kinds.py`
imports them all.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from emo_lightning.experiment.files import ExperimentError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule

T = TypeVar("T")


@dataclass(frozen=True)
class TrainerKind:
    """A LightningModule and its data, driven by LightningCLI."""

    task: str
    """The LightningModule, "module:Class": the keys below `model`."""
    data: str
    """The LightningDataModule, "module:Class": the keys below `data`."""
    verbs: tuple[Literal["fit", "test"], ...] = ("fit",)
    """What the Trainer does, in order."""
    divisible: bool = False
    """Whether its network is worth dividing among GPUs (`strategy: fsdp`); one that is not is copied to each (DDP)."""
    shared: str = ""
    """A module, or "module:function" to call, that the process of the run loads once; its stages are forked from it."""

    def preload(self) -> None:
        """Load what `shared` names."""
        module, _, function = self.shared.partition(":")
        if module:
            loaded = importlib.import_module(module)
            if function:
                getattr(loaded, function)()

    def task_class(self) -> type[LightningModule]:
        """Import the LightningModule.

        Raises:
            TypeError: the table names something else.
        """
        from lightning.pytorch import LightningModule

        return _subclass(self.task, LightningModule)

    def data_class(self) -> type[LightningDataModule]:
        """Import the LightningDataModule.

        Raises:
            TypeError: the table names something else.
        """
        from lightning.pytorch import LightningDataModule

        return _subclass(self.data, LightningDataModule)


@dataclass(frozen=True)
class FunctionKind:
    """A function `f(out: Path, **arguments) -> None` that writes its files into `out`; it runs on one rank."""

    target: str
    """ "module:function": the YAML's keys are its arguments, without `out`."""

    def function(self) -> Callable[..., None]:
        """Import the function.

        Raises:
            TypeError: the table names something else.
        """
        found = _imported(self.target)
        if not inspect.isfunction(found) or next(iter(inspect.signature(found).parameters), None) != "out":
            msg = f"{self.target}: expected a function whose first argument is out"
            raise TypeError(msg)
        return found


Kind = TrainerKind | FunctionKind

_BACKBONE = "emo_lightning.models.preload:preload"

KINDS: dict[str, Kind] = {
    "world": FunctionKind("data_prep.demo.prepare:world_stage"),
    "world_tars": FunctionKind("data_prep.demo.world_tars:world_tars_stage"),
    "tiny_qwen": FunctionKind("emo_lightning.stages.tiny_models:tiny_qwen_stage"),
    "tiny_clip": FunctionKind("emo_lightning.stages.tiny_models:tiny_clip_stage"),
    "clip": TrainerKind("emo_lightning.tasks.clip:CLIPTask", "emo_lightning.data.pairs:PairDataModule"),
    "sft": TrainerKind(
        "emo_lightning.tasks.sft:SFTTask",
        "emo_lightning.data.conversations:ConversationDataModule",
        divisible=True,
        shared=_BACKBONE,
    ),
    "predict": TrainerKind(
        "emo_lightning.tasks.predict:PredictTask",
        "emo_lightning.data.questions:QuestionDataModule",
        ("test",),
        shared=_BACKBONE,
    ),
    "features": TrainerKind(
        "emo_lightning.tasks.features:FeatureTask",
        "emo_lightning.data.questions:QuestionDataModule",
        ("test",),
        shared=_BACKBONE,
    ),
    "des": TrainerKind("emo_lightning.tasks.des:DESTask", "emo_lightning.data.feature_module:FeatureDataModule"),
    "des_online": TrainerKind(
        "emo_lightning.tasks.des:DESTask", "emo_lightning.data.labelled:LabelledDataModule", shared=_BACKBONE
    ),
    "probe": TrainerKind(
        "emo_lightning.tasks.probe:ProbeTask",
        "emo_lightning.data.feature_module:FeatureDataModule",
        ("fit", "test"),
        shared="pandas",
    ),
    "table5": FunctionKind("emo_lightning.stages.tables:table5_stage"),
    "table6": FunctionKind("emo_lightning.stages.tables:table6_stage"),
    "mds": FunctionKind("emo_lightning.stages.tables:mds_stage"),
    "panel": FunctionKind("emo_lightning.stages.tables:panel_stage"),
    "calibration": FunctionKind("emo_lightning.stages.robustness:calibration_stage"),
    "cross_dataset": FunctionKind("emo_lightning.stages.robustness:cross_dataset_stage"),
    "faithfulness": FunctionKind("emo_lightning.stages.robustness:faithfulness_stage"),
    "bundle": FunctionKind("emo_lightning.stages.bundle:bundle_stage"),
    "des_retrieval": FunctionKind("emo_lightning.stages.des_space:retrieval_stage"),
    "des_distance": FunctionKind("emo_lightning.stages.des_space:distance_stage"),
    "des_interpolation": FunctionKind("emo_lightning.stages.des_space:interpolation_stage"),
    "des_stability": FunctionKind("emo_lightning.stages.des_space:stability_stage"),
    "report": FunctionKind("emo_lightning.stages.tables:report_stage"),
}


def find_kind(name: str) -> Kind:
    """The kind of that name.

    Raises:
        ExperimentError: there is none; lists all.
    """
    if name not in KINDS:
        msg = f"stage kind run: {name!r} is unknown; allowed: {', '.join(KINDS)}"
        raise ExperimentError(msg)
    return KINDS[name]


def _imported(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _subclass(target: str, base: type[T]) -> type[T]:
    found = _imported(target)
    if not (isinstance(found, type) and issubclass(found, base)):
        msg = f"{target}: expected a {base.__name__}"
        raise TypeError(msg)
    return found
