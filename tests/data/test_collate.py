"""Batches: nothing of an annotation in the model's input, no row depends on another, and rounds mix as a pure function."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import cast

import pytest
import torch
from torch.utils.data import DataLoader

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import OBJECTIVES
from emo_lightning.data.collate import IGNORE_INDEX, CollateError, Collator, ImageQuestion
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.questions import QuestionCollator, QuestionDataset
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.families import Processor
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL


@pytest.fixture(scope="module")
def processor(tiny_qwen: Path) -> Processor:
    """The tiny model's processor."""
    from transformers import AutoProcessor

    return cast(Processor, AutoProcessor.from_pretrained(tiny_qwen))  # what it gives has no type


@pytest.fixture(scope="module")
def index(world_tars: Path) -> TarIndex:
    """The training images."""
    return TarIndex.open(str(world_tars / "*-train-*.tar"))


def tensors_of(batch: ChatBatch) -> dict[str, torch.Tensor]:
    """What the model takes of a batch."""
    return QWEN2_5_VL.model_inputs(batch)


def test_no_leak_at_inference(processor: Processor, index: TarIndex) -> None:
    """One image with two annotations that share nothing: the same tensors, to the bit."""
    collate = Collator(processor, "qwen2_5_vl", answers=False)
    image, keys = index.image(0), OBJECTIVES["explain"].keys
    first, other = index.record(0), next(r for r in map(index.record, range(1, 24)) if r.emotion is not index.record(0).emotion)
    batches = [collate([ImageQuestion("a", image, keys, record)]) for record in (first, other, None)]
    for batch in batches[1:]:
        assert all(torch.equal(found, tensors_of(batches[0])[name]) for name, found in tensors_of(batch).items())
    assert "labels" not in batches[0]


def test_the_prompt_of_a_training_sample_is_that_of_inference(processor: Processor, index: TarIndex) -> None:
    keys = OBJECTIVES["emotion"].keys
    question = ImageQuestion("a", index.image(0), keys, index.record(0))
    train = Collator(processor, "qwen2_5_vl", answers=True)([question])
    asked = Collator(processor, "qwen2_5_vl", answers=False)([question])["input_ids"][0]
    unsupervised = train["input_ids"][0][train["labels"][0] == IGNORE_INDEX]
    assert torch.equal(unsupervised, asked)


def test_questions_for_predictions_carry_no_record(processor: Processor, index: TarIndex) -> None:
    dataset = QuestionDataset(index, [3, 5])
    row, question = dataset[Slot(1, False)]
    assert (row, question.record, question.keys) == (5, None, ())
    for packed, together in ((False, [("attributes",), ("emotion",)]), (True, [("attributes", "emotion")])):
        collate = Collator(processor, "qwen2_5_vl", answers=False, packed=packed)
        batch = QuestionCollator(collate, ["attributes", "emotion"])([dataset[Slot(0, False)]])
        assert batch["rows"] == [3]
        assert list(batch["inputs"]) == together


@pytest.mark.parametrize(
    ("answers", "override", "side"), [(True, None, "right"), (False, None, "left"), (False, "right", "right")]
)
def test_padding_side(processor: Processor, index: TarIndex, answers: bool, override: str | None, side: str) -> None:
    collate = Collator(processor, "qwen2_5_vl", answers=answers, padding_side=override)
    questions = [
        ImageQuestion(str(i), index.image(i), OBJECTIVES[o].keys, index.record(i)) for i, o in enumerate(("emotion", "explain"))
    ]
    mask = collate(questions)["attention_mask"]
    edge = mask[0, -1 if side == "right" else 0]
    assert int(edge) == 0
    assert mask[1].all()
    alone = collate(questions[:1])["input_ids"][0]
    assert torch.equal(collate(questions)["input_ids"][0][mask[0].bool()], alone)


def test_fillers_have_no_labels(processor: Processor, index: TarIndex) -> None:
    question = ImageQuestion("a", index.image(0), ("emotion",), index.record(0))
    batch = Collator(processor, "qwen2_5_vl", answers=True)(
        [question, ImageQuestion("a", question.image, question.keys, question.record, True)]
    )
    assert batch["filler"].tolist() == [False, True]
    assert (batch["labels"][0] != IGNORE_INDEX).any()
    assert (batch["labels"][1] == IGNORE_INDEX).all()


def test_samples_without_an_answer_are_errors(processor: Processor, index: TarIndex) -> None:
    collate = Collator(processor, "qwen2_5_vl", answers=True)
    with pytest.raises(CollateError, match="sample 'a' has no record to learn from"):
        collate([ImageQuestion("a", index.image(0), ("emotion",))])
    with pytest.raises(CollateError, match="sample 'a' has zero supervised tokens"):
        collate([ImageQuestion("a", index.image(0), (), index.record(0))])


def test_a_part_of_the_model_input_that_is_missing_is_named() -> None:
    with pytest.raises(KeyError, match="batch lacks mm_token_type_ids, pixel_values"):
        QWEN2_5_VL.model_inputs({"input_ids": 0, "attention_mask": 0, "image_grid_thw": 0})


# Mixing rounds


def chosen(index: TarIndex, seed: int, epoch: int, rows: list[int] | range = range(24)) -> list[tuple[str, ...]]:
    """Which keys each row is asked in an epoch, with a fifth of round 1 replayed."""
    dataset = ConversationDataset(index, {"emotion": 0.8, "attributes": 0.2}, seed)
    available = [o.available(index.record(0)) for o in dataset.objectives]
    return [dataset._choose(Slot(row, False, epoch), available) for row in rows]


def test_mixing_is_a_pure_function_of_seed_epoch_and_row(index: TarIndex) -> None:
    whole = chosen(index, 0, 0)
    assert chosen(index, 0, 0) == whole
    assert chosen(index, 0, 0, [7, 3]) == [whole[7], whole[3]], "the order in which rows are read plays no part"
    assert chosen(index, 0, 1) != whole
    assert chosen(index, 1, 0) != whole


def test_mixing_has_the_stated_share(index: TarIndex) -> None:
    picked = chosen(index, 0, 0, range(4000))
    share = sum("background" in keys for keys in picked) / len(picked)
    assert abs(share - 0.2) < 0.02


def test_a_record_is_asked_only_what_it_has_labels_for(index: TarIndex) -> None:
    dataset = ConversationDataset(index, {"emotion": 0.8, "attributes": 0.2}, 0)
    bare = index.record(0).model_copy(update={"emotion": None, "intensity": None})
    available = [o.available(bare) for o in dataset.objectives]
    assert all(dataset._choose(Slot(row, False), available) == OBJECTIVES["attributes"].keys for row in range(20))


@pytest.mark.parametrize("objectives", [{}, {"emotion": 0.0}, {"emotion": 1.0, "attributes": -1.0}])
def test_weights_are_checked(index: TarIndex, objectives: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"data\.objectives=.*weights must be 0 or more, and one above 0"):
        ConversationDataset(index, objectives, 0)


def test_sets_without_the_labels_asked_for_are_errors(tmp_path: Path, index: TarIndex) -> None:
    from data_prep.export import write_shards

    bare = [(index.record(i).model_copy(update={"emotion": None, "intensity": None}), *index.image_bytes(i)) for i in range(3)]
    write_shards(bare, tmp_path, "bare")
    module = ConversationDataModule([str(tmp_path)], [str(tmp_path)], {"emotion": 1.0})
    with pytest.raises(ValueError, match=r"data\.train: none of 3 records has labels for emotion"):
        module.dataset("train")
    assert (
        len(ConversationDataModule([str(tmp_path)], [str(tmp_path)], {"attributes": 1.0, "emotion": 1.0}).dataset("train")) == 3
    )
    # Labels that are never asked for are none.
    never = ConversationDataModule([str(tmp_path)], [str(tmp_path)], {"attributes": 0.0, "emotion": 1.0})
    with pytest.raises(ValueError, match=r"data\.train: none of 3 records has labels for emotion$"):
        never.dataset("train")


# Worker processes


@pytest.mark.parametrize("answers", [True, False])
def test_collator_travels_to_workers(processor: Processor, index: TarIndex, answers: bool) -> None:
    collate = Collator(processor, "qwen2_5_vl", answers=answers)
    dataset = ConversationDataset(index, {"emotion": 1.0}, 0)
    questions = [dataset[Slot(i, False)] for i in range(2)]
    here = collate(questions)
    there = pickle.loads(pickle.dumps(collate))(questions)
    assert all(torch.equal(found, tensors_of(there)[name]) for name, found in tensors_of(here).items())
    loader = DataLoader(
        dataset,
        batch_sampler=[[Slot(0, False), Slot(1, False)]],
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context="fork",
    )
    (worked,) = list(loader)
    assert all(torch.equal(found, tensors_of(worked)[name]) for name, found in tensors_of(here).items())
