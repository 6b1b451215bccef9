"""A vision tower that is trained alone: what it learns, what stays as it was, and the loss that is written in its docstring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from emo_lightning.core.errors import InputError
from emo_lightning.data.collate import IGNORE_INDEX
from emo_lightning.data.pairs import PairDataModule
from emo_lightning.data.sampler import Slot
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.seen import SeenHeads
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.vision import VisionTask
from tests.tasks.test_sft import trainer

FIELDS = {
    "background": ["beach", "forest", "city", "desert", "mountain", "graveyard", "room", "stormy sea"],
    "subject": ["dog", "cat", "bird", "fish", "child", "robot", "ghost", "spider"],
}
ALONE: dict[str, Any] = {"tuning": "full", "train_vision": True, "train_merger": True, "train_language": False}


def task_of(model: Path, fields: dict[str, list[str]] | None = None) -> VisionTask:
    return VisionTask(BackboneConfig(str(model), **ALONE), fields or FIELDS, OptimConfig(lr=1e-2, warmup=0))


def data_of(tars: Path) -> PairDataModule:
    return PairDataModule([f"{tars}/*-train-*.tar"], [f"{tars}/*-val-*.tar"], batch_size=8, num_workers=0)


def test_the_tower_learns_and_the_language_model_stays(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    task = task_of(tiny_qwen)
    run = trainer(tmp_path, max_epochs=12, limit_val_batches=1)
    run.fit(task, datamodule=data_of(world_tars))
    before, after = load_file(tiny_qwen / "model.safetensors"), load_file(tmp_path / "model/model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("visual." in name for name in changed)
    # 24 images of eight backgrounds and eight subjects: a head that sees nothing is at 2 log 8.
    assert float(run.callback_metrics["train/loss"]) < 2.5


def test_loss_is_the_sum_over_fields_of_images_alone(world_tars: Path, tiny_qwen: Path) -> None:
    """Computed again image by image; a field that is not annotated and a filler count nowhere."""
    task = task_of(tiny_qwen)
    task.configure_model()
    data = data_of(world_tars).dataset("train")
    samples = [data[Slot(row, False)] for row in range(3)] + [data[Slot(3, True)]]
    samples[1] = samples[1]._replace(record=samples[1].record.model_copy(update={"subject": None}))
    batch = task.collate(samples)
    assert batch["seen"]["subject"][1] == batch["seen"]["subject"][3] == IGNORE_INDEX
    total, count = task._step(batch, "train")
    assert int(count) == 3
    expected = torch.zeros(())
    for sample in samples[:3]:
        alone = task.collate([sample])
        states = task.net.family.picture_states(task.net.base, alone["inputs"], "merger")
        logits = task.heads(states, alone["tokens"])  # type: ignore[misc]
        for field, values in FIELDS.items():
            if (said := getattr(sample.record, field)) is not None:
                expected = expected + cross_entropy(logits[field], torch.tensor([values.index(said)]))
    assert torch.allclose(total, expected, rtol=1e-5)


def test_an_image_is_read_the_same_beside_longer_ones() -> None:
    torch.manual_seed(0)
    heads = SeenHeads(16, {"subject": 3})
    states = torch.randn(9, 16)
    together, alone = heads(states, [2, 7])["subject"], heads(states[:2], [2])["subject"]
    assert torch.allclose(together[:1], alone, atol=1e-6)


def test_a_value_that_no_field_lists_is_refused(world_tars: Path, tiny_qwen: Path) -> None:
    task = task_of(tiny_qwen, {"subject": ["unicorn"]})
    task.configure_model()
    data = data_of(world_tars).dataset("train")
    with pytest.raises(InputError, match=r"record 'world-train-0+' has subject '\w+'; model.fields.subject has unicorn"):
        task.collate([data[Slot(0, False)]])


@pytest.mark.parametrize(
    ("changes", "fields", "message"),
    [
        ({"train_language": True}, FIELDS, "the tower trains alone"),
        ({"tuning": "lora"}, FIELDS, "the tower trains alone"),
        ({"train_vision": False}, FIELDS, "the tower trains alone"),
        (
            {},
            {"emotion": ["awe"]},
            "model.fields has emotion; expected values for one or more of background, attribute, subject",
        ),
        ({}, {"subject": []}, "model.fields has subject; expected"),
        ({}, {}, "model.fields has nothing"),
    ],
)
def test_what_cannot_be_trained_so_is_refused(
    changes: dict[str, object], fields: dict[str, list[str]], message: str, tiny_qwen: Path
) -> None:
    with pytest.raises(InputError, match=message):
        VisionTask(BackboneConfig(str(tiny_qwen), **(ALONE | changes)), fields)
