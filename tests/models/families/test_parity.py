"""Every family: what it computes is what transformers computes, from a batch of ours, from a row and from a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX, Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.families.base import CACHED_STATES, BackbonePart, CachedPicture
from emo_lightning.models.families.grids import PLACES_KEY
from emo_lightning.models.loading import load_backbone
from tests.models.families.newcomer import check_family
from tests.models.families.test_places import Waits, gradients
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

SIZES = [(96, 64), (64, 96), (150, 70), (40, 40)]


@pytest.fixture(scope="module")
def tiny(worded_model: Path) -> Path:  # noqa: F811
    return worded_model


@pytest.fixture(scope="module")
def questions(world_tars: Path) -> list[ImageQuestion]:
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    keys = ("description", "emotion", "intensity")
    found = []
    for row, size in enumerate(SIZES):
        record, image = index.sample(row)
        found.append(ImageQuestion(record.id, image.resize(size, Image.Resampling.BICUBIC), keys, record))
    return found


def loaded(path: Path, **options: Any) -> Backbone:  # noqa: ANN401
    torch.manual_seed(0)
    return load_backbone(BackboneConfig(str(path), dtype="float32", train_vision=True, **({"tuning": "full"} | options)))


def read_model_type(folder: Path) -> str:
    found = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    assert isinstance(found, str)
    return found


def batch_of(backbone: Backbone, questions: list[ImageQuestion], *, packed: bool) -> ChatBatch:
    return Collator(backbone.processor, backbone.model_type, answers=True, packed=packed, distributions=True)(questions)


def test_it_does_what_every_family_must(tiny: Path, world_tars: Path) -> None:
    check_family(tiny, read_model_type(tiny), world_tars)


def test_loss_and_gradients_are_those_of_transformers(tiny: Path, questions: list[ImageQuestion]) -> None:
    """With its own processor, which normalises every picture twice, and its own loss."""
    backbone = loaded(tiny).eval()
    theirs = AutoModelForImageTextToText.from_pretrained(tiny, dtype="float32", attn_implementation="sdpa").eval()
    processor = AutoProcessor.from_pretrained(tiny)
    for question in questions:
        batch = batch_of(backbone, [question], packed=False)
        inputs = processor.image_processor([question.image], return_tensors="pt")
        labels, ids = batch["labels"], batch["input_ids"]
        types = (ids == processor.image_token_id).long()
        theirs.zero_grad()
        given = {"attention_mask": torch.ones_like(ids), "labels": labels, "mm_token_type_ids": types}
        expected = theirs(input_ids=ids, **given, **inputs).loss
        expected.backward()
        backbone.zero_grad()
        loss, count = backbone.answer_loss(batch)
        loss.backward()
        assert int(count) == int((labels != IGNORE_INDEX).sum())
        assert float(loss) == pytest.approx(float(expected) * int(count), rel=1e-5)
        ours = dict(backbone.base.named_parameters())
        for name, parameter in theirs.named_parameters():
            assert parameter.grad is not None
            found = cast(Tensor, ours[name].grad) / int(count)
            assert float((found - parameter.grad).abs().max()) <= 1e-5 * max(1.0, float(parameter.grad.abs().max())), name


@pytest.mark.parametrize("part", ["vision", "merger"])
@pytest.mark.parametrize("packed", [True, False])
def test_what_a_cache_holds_is_what_the_live_tower_gives(
    tiny: Path, questions: list[ImageQuestion], part: BackbonePart, packed: bool
) -> None:
    backbone = loaded(tiny).eval()
    family = backbone.family
    live: dict[str, Any] = dict(batch_of(backbone, questions, packed=packed))
    pictures: list[CachedPicture] = []
    for one in questions:
        picture = cast("Image.Image", one.image)
        inputs = family.vision_inputs(backbone.processor, [picture])
        with torch.no_grad():
            states = family.picture_states(backbone.base, inputs.tensors, part)
        assert len(states) == sum(inputs.tokens)
        pictures.append(CachedPicture(picture.size, states, part))
    found = family.cached_inputs(backbone.processor, pictures)
    cached = {name: value for name, value in live.items() if name not in ("pixel_values", PLACES_KEY)} | found.tensors
    assert CACHED_STATES[part] in cached
    with torch.no_grad():
        expected, given = (backbone.answer_loss(cast(ChatBatch, batch))[0] for batch in (live, cached))
    # To the bit for the row; transformers' tower sees the padded batch's pictures together.
    assert float(given) == pytest.approx(float(expected), rel=1e-6)


def test_nothing_waits_for_the_device(tiny: Path, questions: list[ImageQuestion]) -> None:
    backbone = loaded(tiny, tuning="lora", lora=LoRA(rank=2)).train()
    batch = batch_of(backbone, questions, packed=True)
    with Waits() as waits:
        given = gradients(backbone, batch)
    assert not waits.found
    without = cast(ChatBatch, {name: value for name, value in batch.items() if name != PLACES_KEY})
    with Waits() as waits:
        worked_out = gradients(backbone, without)
    assert waits.found, "the test does not see what transformers asks for"
    assert all(torch.equal(one, other) for one, other in zip(given, worked_out, strict=True))
