"""Shows during validation what the model says of a few images, with its boxes, in W&B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from emo_lightning.core.boxes import inside
from emo_lightning.core.records import GroundedObject, PredictedObject
from emo_lightning.data.chat import objective, parse_answer
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.sampler import Slot
from emo_lightning.models.sharding import is_sharded
from emo_lightning.models.sound import NotFiniteAnswerError
from emo_lightning.tasks.sft import SFTTask


class BoxGroup(TypedDict):
    """Boxes of one kind, as W&B takes them."""

    box_data: list[dict[str, object]]
    """Each with `position` in pixels, `class_id` and `box_caption`."""
    class_labels: dict[int, str]
    """Names of the kinds."""


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
        data = getattr(trainer, "datamodule", None)
        if not loggers or not isinstance(pl_module, SFTTask) or not isinstance(data, ConversationDataModule):
            return
        # Where every rank holds a part of the weights, all have to take part, with the same questions.
        if not trainer.is_global_zero and not is_sharded(pl_module.net):
            return
        images, captions, boxes = self._samples(pl_module, data)
        for logger in loggers if trainer.is_global_zero else []:
            logger.log_image("val/samples", images, step=trainer.global_step, caption=captions, boxes=boxes)

    def _samples(
        self, task: SFTTask, module: ConversationDataModule
    ) -> tuple[list[Image.Image], list[str], list[dict[str, BoxGroup]]]:
        """Pictures of one size, what was said of each, and its boxes."""
        data = module.dataset("val")
        collate = Collator(task.net.processor, task.net.model_type, answers=False, packed=task.net.packs)
        questions = [data[Slot(row, False)] for row in range(min(self.count, len(data)))]
        captions = [f"{q.fault}\n" if q.fault else "" for q in questions]
        found: list[list[PredictedObject]] = [[] for _ in questions]
        for name in module.objectives:
            batch = collate([Question(q.key, q.image, objective(name).keys) for q in questions])
            moved = move_data_to_device(batch, task.device)
            try:
                answers = task.net.generate(moved, self.max_new_tokens)
            except NotFiniteAnswerError as error:
                # The validation's own loss ends the training, on every rank.
                answers = [f"({error})"] * len(questions)
            for i, answer in enumerate(answers):
                said = parse_answer(
                    answer,
                    id=questions[i].key,
                    original=batch["original_size"][i],
                    resized=batch["resized_size"][i],
                    codec=collate.codec,
                )
                captions[i] += f"{name}: {answer}\n"
                found[i] += said.objects
        true = [q.record.primary_objects if q.record is not None else [] for q in questions]
        return (
            _same_size([q.pixels for q in questions]),
            captions,
            [_boxes(said, truth, q.image.size) for said, truth, q in zip(found, true, questions, strict=True)],
        )


def _same_size(images: Sequence[Image.Image]) -> list[Image.Image]:
    """Padded on the right and below, where boxes stay true: W&B shows all images of a step at the size of the first."""
    width, height = (max(image.size[axis] for image in images) for axis in (0, 1))
    padded = [Image.new("RGB", (width, height)) for _ in images]
    for canvas, image in zip(padded, images, strict=True):
        canvas.paste(image, (0, 0))
    return padded


def _boxes(
    predicted: Sequence[PredictedObject], annotated: Sequence[GroundedObject], size: tuple[int, int]
) -> dict[str, BoxGroup]:
    """W&B's box format, in pixels of the image: what was predicted and what is annotated, each where there is any.

    Cut at the edges of the image of that (width, height): beside it is padding, or the page.
    """
    labels = {0: "predicted", 1: "annotated"}

    def group(items: Sequence[PredictedObject | GroundedObject], label: int) -> BoxGroup:
        rows: list[dict[str, object]] = [
            {
                "position": dict(zip(("minX", "minY", "maxX", "maxY"), map(float, box), strict=True)),
                "class_id": label,
                "box_caption": str(o.phrase or ""),
                "domain": "pixel",
            }
            for o in items
            if (box := inside(o.bbox, size))
        ]
        return {"box_data": rows, "class_labels": labels}

    found = {"predicted": group(predicted, 0)} if predicted else {}
    return found | ({"annotated": group(annotated, 1)} if annotated else {})
