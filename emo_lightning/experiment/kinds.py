"""The kinds of stage: what each runs, which arguments it takes, and how they are checked.

Training kinds are a LightningModule with its LightningDataModule, driven by LightningCLI; all others are typed functions whose
arguments are parsed by jsonargparse. Either way a misspelt key stops before anything runs.
"""

from __future__ import annotations

import copy
import importlib
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from emo_lightning.experiment.argument_errors import plain
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.stage import Stage


@dataclass(frozen=True)
class Fit:
    """A LightningModule and its data, and what the Trainer does with them, in order."""

    task: str
    data: str
    verbs: tuple[str, ...] = ("fit",)


@dataclass(frozen=True)
class Call:
    """A function `f(out: Path, **arguments)`, run on one rank."""

    target: str


KINDS: dict[str, Fit | Call] = {
    "world": Call("data_prep.demo.prepare:world_stage"),
    "world_tars": Call("data_prep.demo.world_tars:world_tars_stage"),
    "tiny_qwen": Call("emo_lightning.models.tiny:tiny_qwen_stage"),
    "tiny_clip": Call("emo_lightning.models.tiny:tiny_clip_stage"),
    "clip": Fit("emo_lightning.tasks.clip:CLIPTask", "emo_lightning.data.pairs:PairDataModule"),
    "sft": Fit("emo_lightning.tasks.sft:SFTTask", "emo_lightning.data.conversations:ConversationDataModule"),
    "predict": Fit("emo_lightning.tasks.inference:PredictTask", "emo_lightning.data.questions:QuestionDataModule", ("test",)),
    "features": Fit("emo_lightning.tasks.inference:FeatureTask", "emo_lightning.data.questions:QuestionDataModule", ("test",)),
    "des": Fit("emo_lightning.tasks.des:DESTask", "emo_lightning.data.feature_module:FeatureDataModule"),
    "des_online": Fit("emo_lightning.tasks.des:DESTask", "emo_lightning.data.labelled:LabelledDataModule"),
    "probe": Fit("emo_lightning.tasks.probe:ProbeTask", "emo_lightning.data.feature_module:FeatureDataModule", ("fit", "test")),
    "table5": Call("emo_lightning.stages.tables:table5_stage"),
    "table6": Call("emo_lightning.stages.tables:table6_stage"),
    "mds": Call("emo_lightning.stages.tables:mds_stage"),
    "panel": Call("emo_lightning.stages.tables:panel_stage"),
    "calibration": Call("emo_lightning.stages.robustness:calibration_stage"),
    "cross_dataset": Call("emo_lightning.stages.robustness:cross_dataset_stage"),
    "faithfulness": Call("emo_lightning.stages.robustness:faithfulness_stage"),
    "bundle": Call("emo_lightning.inference.bundle:bundle_stage"),
    "des_retrieval": Call("emo_lightning.stages.des_space:retrieval_stage"),
    "des_distance": Call("emo_lightning.stages.des_space:distance_stage"),
    "des_interpolation": Call("emo_lightning.stages.des_space:interpolation_stage"),
    "des_stability": Call("emo_lightning.stages.des_space:stability_stage"),
    "report": Call("emo_lightning.stages.tables:report_stage"),
}


def kind(name: str) -> Fit | Call:
    """The kind of that name, or an error that lists all."""
    if name not in KINDS:
        msg = f"stage kind run: {name!r} is unknown; allowed: {', '.join(KINDS)}"
        raise ExperimentError(msg)
    return KINDS[name]


def load(target: str) -> Any:
    """Import `module:attribute`."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@cache
def parser_of(name: str) -> Any:
    """The jsonargparse parser of a kind's arguments."""
    found = kind(name)
    if isinstance(found, Call):
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(prog=name, exit_on_error=False)
        parser.add_function_arguments(load(found.target), as_group=False, skip={"out"})
        return parser
    return _fit_parser(found)


def takes(name: str, key: str) -> bool:
    """Whether a kind has an argument at this dotted key (or one above it that takes free content)."""
    arguments = {a.dest for a in parser_of(name)._actions}
    return any(key == dest or (key.startswith(dest + ".") and dest.count(".") >= 1) for dest in arguments)


def check(stage: Stage) -> None:
    """Parse a stage's arguments without running it.

    Raises:
        ExperimentError: names the stage, the key, and what was found.
    """
    if isinstance(kind(stage.kind), Fit):
        for section in ("trainer", "model", "data"):
            # jsonargparse passes over anything else without a word.
            if not isinstance(stage.config.get(section, {}), dict):
                found = stage.config[section]
                msg = f"stage {stage.name!r} ({stage.kind}): {section}: found {found!r}; expected a mapping of keys"
                raise ExperimentError(msg)
    try:
        parser_of(stage.kind).parse_object(copy.deepcopy(stage.config))
    except ExperimentError:
        raise
    except Exception as error:
        known = [action.dest for action in parser_of(stage.kind)._actions]
        msg = f"stage {stage.name!r} ({stage.kind}): {plain(str(error), known)}"
        raise ExperimentError(msg) from None


def execute(stage: Stage) -> None:
    """Run a stage in this process."""
    found = kind(stage.kind)
    stage.out.mkdir(parents=True, exist_ok=True)
    quiet()
    if isinstance(found, Call):
        parser = parser_of(stage.kind)
        arguments = parser.instantiate_classes(parser.parse_object(copy.deepcopy(stage.config)))
        load(found.target)(out=stage.out, **arguments.as_dict() if hasattr(arguments, "as_dict") else vars(arguments))
        return
    trainer = {**stage.config.get("trainer", {}), "default_root_dir": str(stage.out)}
    if trainer.get("strategy") == "fsdp":
        # Lightning's own is FSDP1, which clips no gradients by norm; only fine-tuning has a network worth dividing.
        trainer["strategy"] = {"class_path": "emo_lightning.tasks.fsdp.ShardedStrategy"} if stage.kind == "sft" else "ddp"
    cli = _lightning_cli(found, {**copy.deepcopy(stage.config), "trainer": trainer})
    last = stage.out / "checkpoints" / "last.ckpt"
    for verb in found.verbs:
        match verb:
            case "fit":
                # Our own checkpoint from this run directory: it also holds loop states, which weights_only refuses.
                cli.trainer.fit(
                    cli.model, datamodule=cli.datamodule, ckpt_path=last if last.exists() else None, weights_only=False
                )
                _write_training(stage, cli)
            case "test":
                cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False)
            case _:
                msg = f"kind {stage.kind!r} has the unknown verb {verb!r}"
                raise ExperimentError(msg)


def _write_training(stage: Stage, cli: Any) -> None:
    """Rank 0 writes `training.json`: what a reader of the run's report must know of a training beside its settings."""
    if not cli.trainer.is_global_zero:
        return
    from emo_lightning.core.files import write_json

    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    seed = cli.config.get("seed_everything")
    found = {"seed": seed, "steps": cli.trainer.global_step, "devices": cli.trainer.world_size, "trained_parameters": trained}
    write_json(stage.out / "training.json", {**found, **cli.datamodule.summary()})


_PARSER_MODE = "omegaconf+"
"""Interpolation as jsonargparse does it after overrides; plain `omegaconf` keeps values that an override has made stale."""

_TRAINER_DEFAULTS = {
    # Our batch samplers already give every rank its share, each sample exactly once.
    "use_distributed_sampler": False,
}


def _fit_parser(found: Fit) -> Any:
    """The parser that LightningCLI makes for these two classes, without a command line."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(parser_mode=_PARSER_MODE, exit_on_error=False)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{key}": value for key, value in _TRAINER_DEFAULTS.items()})
    parser.add_lightning_class_args(load(found.task), "model")
    parser.add_lightning_class_args(load(found.data), "data")
    return parser


def _lightning_cli(found: Fit, config: dict[str, Any]) -> Any:
    from lightning.pytorch.cli import LightningCLI

    return LightningCLI(
        load(found.task),
        load(found.data),
        run=False,
        args=config,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        parser_kwargs={"parser_mode": _PARSER_MODE, "exit_on_error": False},
        trainer_defaults=_TRAINER_DEFAULTS,
    )


def quiet() -> None:
    """Silence advice that does not apply here, so that what is printed is worth reading."""
    import logging
    import warnings

    for advice in (
        "does not have many workers",
        "Checkpoint directory .* exists and is not empty",
        "LightningCLI's args parameter is intended",
        "You have overridden `on_before_batch_transfer`",
        "Precision .* is not supported by the model summary",
        # `val/loss` is reduced by its metric, exactly (tasks/base.py).
        "It is recommended to use `self.log\\('val/loss'",
        # A pass that finds everything answered has no loader.
        "Total length of `list` across ranks is zero",
        # Notices of renamed things between transformers, peft, Lightning and torch, which are theirs to settle.
        "`is_gradient_checkpointing` is deprecated",
        "`gradient_checkpointing_enable` is deprecated",
        "`isinstance\\(treespec, LeafSpec",
    ):
        warnings.filterwarnings("ignore", f".*{advice}")
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(logger).addFilter(
            lambda record: not re.search("litlogger|litmodels|Tip:|PU available|^Seed set to", record.getMessage())
        )
    # Of 4-bit layers, at every import of peft on a CPU: a faster kernel could be installed.
    logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(lambda record: "kernels-community" not in record.getMessage())
    from transformers.utils.logging import disable_progress_bar

    # A bar for every shard of weights, under the bar of the training itself.
    disable_progress_bar()
