"""Features of the model's own answer: what it would say, read as one text, whatever else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.generated_states import generated_states
from emo_lightning.models.loading import load_backbone

LAYERS, LONGEST = 3, 6


@pytest.fixture(scope="module")
def backbone(tiny_qwen: Path) -> Backbone:
    """Random and frozen."""
    return load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen")).eval()


def batch_of(net: Backbone, tars: Path, rows: Sequence[int]) -> dict[str, Any]:
    """Questions on some images of the world."""
    index = TarIndex.open([f"{tars}/*-train-*.tar"])
    asked = [ImageQuestion(index.record(row).id, index.image(row), objective("emotion").keys) for row in rows]
    return dict(Collator(net.processor, net.model_type, answers=False)(asked))


def greedy(net: Backbone, batch: dict[str, Any]) -> list[list[int]]:
    """The answers, token by token, without transformers' generation: up to and with the end mark."""
    ends = set(net.base.generation_config.eos_token_id)
    answers = []
    for row in range(len(batch["key"])):
        real = batch["attention_mask"][row].bool()
        patches = batch["image_grid_thw"].prod(-1).tolist()
        start = sum(patches[:row])
        ids, kinds = batch["input_ids"][row, real], batch["mm_token_type_ids"][row, real]
        answer: list[int] = []
        while len(answer) < LONGEST and (not answer or answer[-1] not in ends):
            one = single(batch, ids, kinds, answer, start, patches[row], row)
            with torch.no_grad():
                answer.append(int(net.base.lm_head(net.last_hidden_state(one)[0, -1]).argmax()))
        answers.append(answer)
    return answers


def single(
    batch: dict[str, Any], ids: torch.Tensor, kinds: torch.Tensor, answer: list[int], start: int, patches: int, row: int
) -> dict[str, Any]:
    """One image, its question and so much of an answer, without padding."""
    whole = torch.cat([ids, torch.tensor(answer, dtype=ids.dtype)])[None]
    return {
        "input_ids": whole,
        "attention_mask": torch.ones_like(whole),
        "mm_token_type_ids": torch.cat([kinds, torch.zeros(len(answer), dtype=kinds.dtype)])[None],
        "pixel_values": batch["pixel_values"][start : start + patches],
        "image_grid_thw": batch["image_grid_thw"][row : row + 1],
    }


def test_states_are_those_of_the_answer_read_as_one_text(backbone: Backbone, world_tars: Path) -> None:
    batch = batch_of(backbone, world_tars, range(4))
    # A token that some answers really hold becomes an end mark: answers of different lengths.
    first = greedy(backbone, batch)
    backbone.base.generation_config.eos_token_id = sorted({first[0][1], *backbone.base.generation_config.eos_token_id})
    answers = greedy(backbone, batch)
    states, mask = generated_states(backbone, batch, LAYERS, LONGEST)
    assert states.shape[:2] == (LAYERS, 4)
    assert len({len(answer) for answer in answers}) > 1, "padding behind an answer is not tried"
    assert mask.sum(1).tolist() == [len(answer) for answer in answers]
    patches = batch["image_grid_thw"].prod(-1).tolist()
    for row, answer in enumerate(answers):
        real = batch["attention_mask"][row].bool()
        one = single(
            batch,
            batch["input_ids"][row, real],
            batch["mm_token_type_ids"][row, real],
            answer,
            sum(patches[:row]),
            patches[row],
            row,
        )
        with torch.no_grad():
            expected = backbone.hidden_states(backbone.family.model_inputs(one), LAYERS)[:, 0, -len(answer) :]
        torch.testing.assert_close(states[:, row, mask[row]], expected, atol=1e-5, rtol=1e-4)


def test_an_image_is_the_same_alone_and_in_a_batch(backbone: Backbone, world_tars: Path) -> None:
    together, mask = generated_states(backbone, batch_of(backbone, world_tars, range(3)), LAYERS, LONGEST)
    for row in range(3):
        alone, own = generated_states(backbone, batch_of(backbone, world_tars, [row]), LAYERS, LONGEST)
        torch.testing.assert_close(alone[:, 0, own[0]], together[:, row, mask[row]], atol=1e-5, rtol=1e-4)
