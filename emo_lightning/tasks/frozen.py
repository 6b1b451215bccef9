"""What the tasks with a frozen backbone share.

They run as `Trainer.test`, so that devices, DDP, torchrun and SLURM work as in training (`Trainer.predict` would rebuild our
loaders and lose their exact share of samples per rank).
"""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.terminal import say
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_frozen
from emo_lightning.tasks.backbone import WithBackbone
from emo_lightning.tasks.output import checked_out, output_folder


class FrozenTask(WithBackbone):
    """A backbone that learns nothing and reads questions about images (`QuestionDataModule`).

    Args:
        backbone: which model; how it would train does not matter (`BackboneConfig.frozen`).
        out: folder for the results; None is the trainer's default_root_dir.
    """

    def __init__(self, backbone: BackboneConfig, out: str | None) -> None:
        super().__init__()
        self.expect(backbone.frozen())
        self.out = checked_out(out)

    def configure_model(self) -> None:
        """Load the backbone, once, on every rank."""
        if self.backbone is None:
            self.backbone = load_frozen(self.backbone_config)

    def also_asks(self) -> tuple[str, ...]:
        """For the data module (`AsksQuestions`): nothing."""
        return ()

    def computed(self) -> dict[str, str]:
        """How numbers come about, beside what model and pictures hold: passes that differ in one of these differ at least in their last bits."""
        config = self.backbone_config
        return {
            "dtype": config.dtype,
            "precision": str(self.trainer.precision),
            "attention": config.attention,
            "compiled": "yes" if config.compile else "no",
        }

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return output_folder(self.out, self.trainer)

    @property
    def data(self) -> QuestionDataModule:
        """The trainer's data module."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, QuestionDataModule):
            msg = f"{type(self).__name__} needs a QuestionDataModule, got {type(data).__name__}"
            raise TypeError(msg)
        return data

    def say_skipped(self, what: str) -> None:
        """Say at the end how many images have no result, as they cannot be read (`data.on_error: skip`)."""
        if skipped := self.data.skips.of_all_ranks():
            say(
                f"{len(skipped)} images cannot be read and have no {what}: {', '.join(list(skipped)[:5])}{' …' * (len(skipped) > 5)}"
            )

    def configure_optimizers(self) -> None:
        """Nothing trains."""
