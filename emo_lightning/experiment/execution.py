"""Runs one checked stage in this process: calls its function, or has Lightning's Trainer fit or test its classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from emo_lightning.experiment.advice import silence_advice
from emo_lightning.experiment.argument_errors import own_errors
from emo_lightning.experiment.arguments import PARSER_MODE, TRAINER_DEFAULTS, parsed
from emo_lightning.experiment.found_checkpoints import Checkpoints, newest_checkpoint
from emo_lightning.experiment.kinds import FunctionKind, TrainerKind, find_kind
from emo_lightning.experiment.saving import split_config
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.tracking import log_curves

if TYPE_CHECKING:
    from lightning.pytorch.cli import LightningCLI

    from emo_lightning.data.step_cut import StepCut


@runtime_checkable
class Summarised(Protocol):
    """What every data module of ours can say (`emo_lightning.data.module`), and some callbacks."""

    def summary(self) -> dict[str, object]:
        """What is trained on, or how fast, as JSON."""


def execute(stage: Stage) -> None:
    """Run a stage in this process."""
    kind = find_kind(stage.kind)
    stage.out.mkdir(parents=True, exist_ok=True)
    silence_advice()
    if isinstance(kind, FunctionKind):
        kind.function()(out=stage.out, **parsed(stage))
        return
    from emo_lightning.experiment.cut_short import answer_signals_alone, watch

    config, every = split_config(stage.config)
    cli = _lightning_cli(kind, stage.out, config)
    sent = log_curves(cli.trainer, stage)
    for verb in kind.verbs:
        match verb:
            case "fit":
                # A run folder may be somebody else's: its checkpoints have been read as plain data.
                begun = newest_checkpoint(Checkpoints.of(stage))
                keeper = watch(cli.trainer, stage, every, begun, sent)
                cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=begun, weights_only=True)
                keeper.check(cli.trainer)
                _write_training(stage, cli, keeper.cut_anew)
            case "test":
                answer_signals_alone(cli.trainer)
                cli.trainer.test(cli.model, datamodule=cli.datamodule, verbose=False, weights_only=True)


def _lightning_cli(kind: TrainerKind, out: Path, config: Mapping[str, Any]) -> LightningCLI:
    from lightning.pytorch.cli import LightningCLI

    from emo_lightning.experiment.progress import progress_bar

    trainer = {**config.get("trainer", {}), "default_root_dir": str(out)}
    if trainer.get("strategy") == "fsdp":
        # Lightning's own is FSDP1, which clips no gradients by norm.
        trainer["strategy"] = {"class_path": "emo_lightning.tasks.fsdp.ShardedStrategy"} if kind.divisible else "ddp"
    with own_errors():
        return LightningCLI(
            kind.task_class(),
            kind.data_class(),
            run=False,
            args={**config, "trainer": trainer},
            save_config_callback=None,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            parser_kwargs={"parser_mode": PARSER_MODE, "exit_on_error": False},
            trainer_defaults={**TRAINER_DEFAULTS, **progress_bar(trainer)},
        )


def _write_training(stage: Stage, cli: LightningCLI, cut: StepCut | None) -> None:
    """Rank 0 writes `training.json`: what a reader of the run's report must know of a training beside its settings.

    Args:
        stage: that has trained.
        cli: with its Trainer.
        cut: of its steps, where that is another than configured.
    """
    if not cli.trainer.is_global_zero:
        return
    from emo_lightning.core.files import write_json

    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    seed = cli.config.get("seed_everything")
    found: dict[str, object] = {
        "seed": seed,
        "steps": cli.trainer.global_step,
        "devices": cli.trainer.world_size,
        "trained_parameters": trained,
    }
    if cut is not None:
        found["step"] = cut._asdict()
    assert isinstance(cli.datamodule, Summarised)
    for part in (cli.model, *cli.trainer.callbacks):  # type: ignore[attr-defined]  # every Trainer has it
        if isinstance(part, Summarised):
            found |= part.summary()
    write_json(stage.out / "training.json", {**found, **cli.datamodule.summary()})
