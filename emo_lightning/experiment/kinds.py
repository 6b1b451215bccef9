"""The kinds of stage: what `run: KIND` in an experiment's YAML stands for.

Which file does a kind live in? Each row of `STAGE_KINDS` says so, as "module:name". What trains or asks a model is a LightningModule of
`emo_lightning/tasks` with a data module of `emo_lightning/data`. Everything else is one function `KIND_stage` in `emo_lightning/stages`,
or, where it makes the demo's data, in `data_prep/demo`. Either way the YAML's keys are the arguments of its signature.

Modules stand here as text so that an experiment is read and checked in part before torch is loaded; `tests/experiment/test_kinds.py`
imports them all.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from emo_lightning.core.file_names import EMBEDDINGS_FILE, METRICS_FILE, PREDICTIONS_FILE, about_file
from emo_lightning.experiment.files import ExperimentError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule, LightningModule

T = TypeVar("T")

Role = Literal["tars", "weights", "bundle", "cache", "probe", "probes", "file", "anchors", "run"]
"""What an argument names: tars or files of records, a model (folder or id), a bundle, a feature cache, a probe stage's folder, a pattern of
such folders with `{…}` in the last part, any other file, anchors of emotions (a name of `configs/anchors`, or a file), or the run itself (a
page about it has no input of its own)."""


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
    reads: Mapping[str, Role] = field(default_factory=dict)
    """Arguments that name what the stage is made from, dotted: their content is part of its identity, their paths are not. A mapping
    stands for all its values; `*` for every key on the way."""
    places: tuple[str, ...] = ()
    """Arguments that name where it writes, dotted; of one that is a mapping, its names do. What is a URL there is refused."""
    writes: Callable[[Mapping[str, Any]], Sequence[str]] | None = None
    """Of one that has `model.out`: the files and folders that it writes there, by its arguments; what else lies there is not its own."""
    shared: str = ""
    """A module, or "module:function" to call, that the process of the run loads once; its stages are forked from it."""

    def preload(self) -> None:
        """Load what `shared` names, and what Lightning imports in every process that looks at a folder: 0.3 s for S3 alone."""
        for storage in filter(importlib.util.find_spec, _STORAGES):
            importlib.import_module(storage)
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
    reads: Mapping[str, Role] = field(default_factory=dict)
    """As those of a `TrainerKind`."""
    places: tuple[str, ...] = ()
    """As those of a `TrainerKind`."""

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


StageKind = TrainerKind | FunctionKind

_STORAGES = ("adlfs", "gcsfs", "s3fs")
"""Packages of which Lightning asks, wherever they are installed, whether a folder is theirs."""

_BACKBONE = "emo_lightning.models.preload:preload"

_TRAINED_ON: dict[str, Role] = {"data.train": "tars", "data.val": "tars"}
_ASKED: dict[str, Role] = {"model.backbone.path": "weights", "data.sets": "tars"}
_CACHED: dict[str, Role] = {"data.train": "cache", "data.val": "cache", "data.test": "cache", "data.extra": "cache"}
_ARMS: dict[str, Role] = {"predictions": "file", "references": "tars", "train": "tars", "clip": "weights"}
_SPACE: dict[str, Role] = {"embeddings": "file", "references": "tars"}


def _predictions(config: Mapping[str, Any]) -> Sequence[str]:
    file = str(config.get("model", {}).get("file", PREDICTIONS_FILE))
    return file, about_file(file)


def _caches(config: Mapping[str, Any]) -> Sequence[str]:
    return [str(name) for name in config.get("data", {}).get("sets", {})]


def _head(_config: Mapping[str, Any]) -> Sequence[str]:
    return "head", "affect"


def _probe(_config: Mapping[str, Any]) -> Sequence[str]:
    return METRICS_FILE, PREDICTIONS_FILE, EMBEDDINGS_FILE, "probe"


STAGE_KINDS: dict[str, StageKind] = {
    "world": FunctionKind("data_prep.demo.prepare:world_stage", {"config": "file"}),
    "world_tars": FunctionKind("data_prep.demo.world_tars:world_tars_stage"),
    "tiny_qwen": FunctionKind("emo_lightning.stages.tiny_models:tiny_qwen_stage", {"tars": "tars", "tower": "weights"}),
    "tiny_clip": FunctionKind("emo_lightning.stages.tiny_models:tiny_clip_stage", {"tars": "tars"}),
    "restore_words": FunctionKind(
        "emo_lightning.stages.tiny_models:restore_words_stage", {"backbone": "weights", "start": "weights", "tars": "tars"}
    ),
    "cast": FunctionKind("emo_lightning.stages.tiny_models:cast_stage", {"backbone": "weights"}),
    "tiny_card": FunctionKind(
        "emo_lightning.stages.tiny_models:tiny_card_stage", {"backbone": "weights", "table5": "file", "trained": "file"}
    ),
    "clip": TrainerKind(
        "emo_lightning.tasks.clip:CLIPTask",
        "emo_lightning.data.pairs:PairDataModule",
        reads={"model.path": "weights", **_TRAINED_ON},
    ),
    "vision": TrainerKind(
        "emo_lightning.tasks.vision:VisionTask",
        "emo_lightning.data.pairs:PairDataModule",
        reads={"model.backbone.path": "weights", **_TRAINED_ON},
        shared=_BACKBONE,
    ),
    "sft": TrainerKind(
        "emo_lightning.tasks.sft:SFTTask",
        "emo_lightning.data.conversations:ConversationDataModule",
        divisible=True,
        reads={"model.backbone.path": "weights", **_TRAINED_ON},
        shared=_BACKBONE,
    ),
    "grpo": TrainerKind(
        "emo_lightning.tasks.grpo:GRPOTask",
        "emo_lightning.data.rollouts:RolloutDataModule",
        reads={
            "model.backbone.path": "weights",
            "model.zero_shot": "weights",
            "model.rewards.embeddings": "file",
            "model.rewards.lexicon": "file",
            **_TRAINED_ON,
            "data.others": "tars",
        },
        shared=_BACKBONE,
    ),
    "predict": TrainerKind(
        "emo_lightning.tasks.predict:PredictTask",
        "emo_lightning.data.questions:QuestionDataModule",
        ("test",),
        reads={"model.des_head": "weights", **_ASKED},
        places=("model.out", "model.file"),
        writes=_predictions,
        shared=_BACKBONE,
    ),
    "features": TrainerKind(
        "emo_lightning.tasks.features:FeatureTask",
        "emo_lightning.data.questions:QuestionDataModule",
        ("test",),
        reads=_ASKED,
        places=("model.out", "data.sets"),
        writes=_caches,
        shared=_BACKBONE,
    ),
    "des": TrainerKind(
        "emo_lightning.tasks.des:DESTask",
        "emo_lightning.data.feature_module:FeatureDataModule",
        reads={"model.backbone.path": "weights", "model.anchors": "anchors", **_CACHED},
        places=("model.out",),
        writes=_head,
    ),
    "des_online": TrainerKind(
        "emo_lightning.tasks.des:DESTask",
        "emo_lightning.data.labelled:LabelledDataModule",
        reads={"model.backbone.path": "weights", "model.anchors": "anchors", **_TRAINED_ON},
        places=("model.out",),
        writes=_head,
        shared=_BACKBONE,
    ),
    "probe": TrainerKind(
        "emo_lightning.tasks.probe:ProbeTask",
        "emo_lightning.data.feature_module:FeatureDataModule",
        ("fit", "test"),
        reads={"model.des_head": "weights", **_CACHED},
        places=("model.out",),
        writes=_probe,
        shared="pandas",
    ),
    "table5": FunctionKind("emo_lightning.stages.tables:table5_stage", {**_ARMS, "anchors": "anchors"}),
    "table6": FunctionKind("emo_lightning.stages.tables:table6_stage", {"probes": "probe"}),
    "mds": FunctionKind("emo_lightning.stages.figures:mds_stage", {**_SPACE, "predictions": "file"}),
    "panel": FunctionKind("emo_lightning.stages.figures:panel_stage", {"predictions": "file", "references": "tars"}),
    "calibration": FunctionKind("emo_lightning.stages.robustness:calibration_stage", {"predictions": "file", "sets": "tars"}),
    "cross_dataset": FunctionKind(
        "emo_lightning.stages.robustness:cross_dataset_stage",
        {"predictions": "file", "sets.*.references": "tars", "trained_on": "tars"},
    ),
    "across_seeds": FunctionKind(
        "emo_lightning.stages.robustness:across_seeds_stage",
        {"predictions": "file", "sets.*.references": "tars", "trained_on": "tars"},
    ),
    "faithfulness": FunctionKind(
        "emo_lightning.stages.robustness:faithfulness_stage",
        {"model": "bundle", "references": "tars", "boxes": "file"},
    ),
    "attribute_guidance": FunctionKind(
        "emo_lightning.stages.attribute_guidance:attribute_guidance_stage", {"probes": "probes"}
    ),
    "bundle": FunctionKind(
        "emo_lightning.stages.bundle:bundle_stage",
        {"backbone": "weights", "head": "weights", "probe": "weights", "train": "tars", "val": "tars"},
    ),
    "des_retrieval": FunctionKind("emo_lightning.stages.des_space:retrieval_stage", _SPACE),
    "des_distance": FunctionKind("emo_lightning.stages.des_space:distance_stage", _SPACE),
    "des_interpolation": FunctionKind("emo_lightning.stages.des_space:interpolation_stage", _SPACE),
    "des_stability": FunctionKind("emo_lightning.stages.des_space:stability_stage", {"models": "bundle", "references": "tars"}),
    "report": FunctionKind("emo_lightning.stages.report:report_stage", {"run_dir": "run"}, ("run_dir",)),
}


def find_kind(name: str) -> StageKind:
    """The kind of that name.

    Raises:
        ExperimentError: there is none; lists all.
    """
    if name not in STAGE_KINDS:
        msg = f"stage kind run: {name!r} is unknown; allowed: {', '.join(STAGE_KINDS)}"
        raise ExperimentError(msg)
    return STAGE_KINDS[name]


def _imported(target: str) -> object:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _subclass(target: str, base: type[T]) -> type[T]:
    found = _imported(target)
    if not (isinstance(found, type) and issubclass(found, base)):
        msg = f"{target}: expected a {base.__name__}"
        raise TypeError(msg)
    return found
