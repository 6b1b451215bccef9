"""Shows during validation what the model says of a few images, with its boxes, in W&B."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from emo_lightning.data.chat import objective, parse_reply
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.sampler import Slot
from emo_lightning.schema import Prediction, Record


class SampleLogger(Callback):
    """After each validation, rank 0 answers the first images of the validation set and logs them as W&B images.

    Args:
        count: images.
        max_new_tokens: of one reply.
    """

    def __init__(self, count: int = 4, max_new_tokens: int = 128) -> None:
        self.count, self.max_new_tokens = count, max_new_tokens

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Generate and log; without a W&B logger there is nowhere to show a picture, and nothing is generated."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero or not hasattr(pl_module, "net"):
            return
        images, captions, boxes = self._samples(trainer, pl_module)
        for logger in loggers:
            logger.log_image("val/samples", images, step=trainer.global_step, caption=captions, boxes=boxes)

    def _samples(self, trainer: Trainer, task: Any) -> tuple[list[Any], list[str], list[Any]]:
        data = trainer.datamodule.dataset("val")  # type: ignore[attr-defined]
        names = list(trainer.datamodule.objectives)  # type: ignore[attr-defined]
        collate = Collator(task.net.processor, task.net.model_type, answers=False)
        questions = [data[Slot(row, False)] for row in range(min(self.count, len(data)))]
        captions = ["" for _ in questions]
        boxes: list[Any] = [{} for _ in questions]
        for name in names:
            batch = collate([Question(q.key, q.image, objective(name).keys) for q in questions])
            moved = {k: v.to(task.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            for i, reply in enumerate(task.net.generate(moved, self.max_new_tokens)):
                said = parse_reply(
                    reply,
                    id=questions[i].key,
                    original=batch["original_size"][i],
                    resized=batch["resized_size"][i],
                    codec=collate.codec,
                )
                captions[i] += f"{name}: {reply}\n"
                if said.objects:
                    boxes[i] = _boxes(said, questions[i].record)
        return [q.image for q in questions], captions, boxes


def _boxes(said: Prediction, truth: Record | None) -> dict[str, Any]:
    """W&B's box format, in pixels: what was predicted and what is annotated."""

    def rows(items: Any, label: int) -> list[dict[str, Any]]:
        return [
            {
                "position": dict(zip(("minX", "minY", "maxX", "maxY"), map(float, o.bbox), strict=True)),
                "class_id": label, "box_caption": str(o.phrase or ""), "domain": "pixel",
            }
            for o in items
        ]  # fmt: skip

    labels = {0: "predicted", 1: "annotated"}
    found = {"predicted": {"box_data": rows(said.objects, 0), "class_labels": labels}}
    if truth is not None:
        found["annotated"] = {"box_data": rows(truth.primary_objects, 1), "class_labels": labels}
    return found
