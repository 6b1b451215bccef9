"""Rows of tokens: every sample once, nearly full, as many on each rank, and drawn anew in each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.data import chat, packing
from emo_lightning.data import lengths as lengths_module
from emo_lightning.data.chat import Objective, objective
from emo_lightning.data.collate import CollateError, Collator
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.lengths import sample_lengths
from emo_lightning.data.packing import Lengths, PackedRows
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_backbone


def lengths_of(size: int, lowest: int, highest: int, seed: int = 0) -> Lengths:
    """Other lengths in each epoch."""

    def lengths(epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([seed, epoch]).integers(lowest, highest + 1, size)

    return lengths


def ranks(
    lengths: Lengths, most: int, world: int, *, epoch: int = 0, together: int | None = None, epochs: int = 3
) -> list[PackedRows]:
    found = []
    for rank in range(world):
        rows = PackedRows(lengths, most, epochs=epochs, seed=5, rank=rank, world_size=world, together=together)
        rows.set_epoch(epoch)
        found.append(rows)
    return found


def cases() -> Iterator[tuple[int, int, int, int, int]]:
    """Samples, shortest, longest, tokens a row, ranks."""
    draw = np.random.default_rng(7)
    for _ in range(120):
        highest = int(draw.integers(1, 400))
        size, world = int(draw.integers(1, 200)), int(draw.integers(1, 5))
        yield size, int(draw.integers(1, highest + 1)), highest, int(draw.integers(highest, 5 * highest + 1)), world


def test_every_sample_once_in_as_many_rows_on_each_rank() -> None:
    for size, lowest, highest, most, world in cases():
        lengths = lengths_of(size, lowest, highest)
        for epoch in range(3):
            each = [list(rows) for rows in ranks(lengths, most, world, epoch=epoch)]
            assert {len(rows) for rows in each} == {len(rows) for rows in ranks(lengths, most, world)}
            slots = [slot for rows in each for row in rows for slot in row]
            assert sorted(slot.index for slot in slots if not slot.filler) == list(range(size))
            for row in (row for rows in each for row in rows):
                assert row
                assert sum(lengths(epoch)[slot.index] for slot in row) <= most
                assert not any(slot.filler for slot in row) or len(row) == 1, "a filler stands alone"


@pytest.mark.parametrize(
    ("lowest", "highest", "most"), [(150, 800, 8192), (150, 800, 4096), (280, 300, 8192), (40, 1000, 4096)]
)
@pytest.mark.parametrize("world", [1, 8])
def test_rows_are_full(lowest: int, highest: int, most: int, world: int) -> None:
    lengths = lengths_of(10_000, lowest, highest)
    rows = PackedRows(lengths, most, epochs=3, seed=5, world_size=world)
    assert all(lengths(epoch).sum() / (rows.rows * most) >= 0.97 for epoch in range(3))


@pytest.mark.parametrize("share", [0.6, 0.4, 0.3])
def test_lengths_that_fill_no_row(share: float) -> None:
    rows = packing.pack_rows(np.full(20_000, round(1000 * share)), np.arange(20_000), 1000)
    assert sorted(sample for row in rows for sample in row) == list(range(20_000))
    assert len(rows) == -(-20_000 // int(1 / share))


def test_a_row_is_a_random_draw() -> None:
    """What is asked goes with length: were long answers to stand together, a step would learn one thing and the next another."""
    draw = np.random.default_rng(3)
    kind = draw.random(20_000) < 0.4
    lengths = np.where(kind, draw.integers(60, 90, 20_000), draw.integers(20, 40, 20_000))
    rows = packing.pack_rows(lengths, draw.permutation(20_000), 736)
    assert lengths.sum() / (736 * len(rows)) >= 0.99
    shares = np.array([kind[row].mean() for row in rows])
    # Of a row of n independent draws: sqrt(0.4 * 0.6 / n).
    expected = np.sqrt(0.24 / np.mean([len(row) for row in rows]))
    assert shares.std() < 1.15 * expected
    # Nor does what is left for later differ.
    assert np.corrcoef(np.arange(len(rows)), shares)[0, 1] < 0.05


def test_epochs_that_a_limit_of_steps_leaves_out_are_not_planned() -> None:
    asked: set[int] = set()
    lengths = lengths_of(300, 20, 90)

    def heard(epoch: int) -> NDArray[np.int64]:
        asked.add(epoch)
        return lengths(epoch)

    each = len(PackedRows(lengths, 256, epochs=1, seed=5))
    rows = PackedRows(heard, 256, epochs=1000, seed=5, world_size=2, batches=5 * each // 2)
    assert asked == set(range(5))
    assert len(rows) * 5 >= 5 * each // 2


def test_an_optimiser_step_has_the_same_rows_on_any_number_of_ranks() -> None:
    lengths = lengths_of(300, 20, 90)

    def steps(world: int) -> list[set[tuple[int, ...]]]:
        each = [list(rows) for rows in ranks(lengths, 256, world, epoch=2, together=4)]
        batches = 4 // world
        return [
            {tuple(slot.index for slot in row) for rows in each for row in rows[first : first + batches]}
            for first in range(0, len(each[0]), batches)
        ]

    assert steps(1) == steps(2) == steps(4)


def test_the_plan_depends_on_seed_and_epoch_alone_and_goes_on_anywhere() -> None:
    lengths = lengths_of(80, 20, 90)
    rows = PackedRows(lengths, 256, epochs=3, seed=1)
    again = PackedRows(lengths, 256, epochs=3, seed=1)
    assert [rows.plan(epoch) for epoch in range(3)] == [again.plan(epoch) for epoch in range(3)]
    assert rows.plan(0) != rows.plan(1)
    assert rows.plan(0) != PackedRows(lengths, 256, epochs=3, seed=2).plan(0)
    assert rows.identity() == again.identity()
    assert rows.identity() != PackedRows(lengths_of(80, 20, 90, seed=1), 256, epochs=3, seed=1).identity()
    whole = list(rows)
    assert list(rows.from_step(3)) == whole[3:]


def test_rows_in_order_hold_what_follows_each_other() -> None:
    for size, lowest, highest, most, world in cases():
        lengths = lengths_of(size, lowest, highest)(0)
        each = [
            PackedRows(lambda _, one=lengths: one, most, epochs=1, seed=0, rank=r, world_size=world, shuffle=False)  # type: ignore[misc]
            for r in range(world)
        ]
        rows = [row for step in zip(*each, strict=True) for row in step]
        assert all(lengths[[slot.index for slot in row]].sum() <= most for row in rows)
        assert sorted(slot.index for row in rows for slot in row if not slot.filler) == list(range(size))
        each[0].set_epoch(7)
        assert each[0].plan(0) == each[0].plan(7)
        if world == 1:
            assert [slot.index for row in rows for slot in row] == list(range(size))


def test_a_sample_that_no_row_holds_is_refused() -> None:
    with pytest.raises(InputError, match=r"data\.max_tokens: found 399; the longest of 50 samples has 400 tokens"):
        PackedRows(lambda _: np.full(50, 400), 399, epochs=1, seed=0)


def test_lengths_are_those_of_the_collated_samples(world_tars: Path, tiny_qwen: Path) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    weights = {"attributes": 0.5, "emotion": 0.3, "explain": 0.2}
    dataset = ConversationDataset(index, weights, 3)
    table = sample_lengths(index, [objective(name) for name in weights], collate)
    assert (table > 0).all()
    lengths = dataset.lengths(collate)
    for epoch in range(2):
        batch = collate([dataset[Slot(row, False, epoch)] for row in range(len(index))])
        assert batch["lengths"] == lengths(epoch).tolist()
    assert lengths(0).tolist() != lengths(1).tolist()


def test_answers_are_tokenised_once(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As long as records, prompts, tokenizer and sizes of pictures are the same; what is kept and damaged is counted anew."""
    monkeypatch.setenv("EMO_CACHE", str(tmp_path))
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    asked = [objective("attributes"), objective("emotion")]
    counted: list[int] = []
    count = lengths_module._counted

    def counts(index: TarIndex, asked: Sequence[Objective], collate: Collator) -> NDArray[np.int64]:
        counted.append(len(index))
        return count(index, asked, collate)

    monkeypatch.setattr(lengths_module, "_counted", counts)
    first = sample_lengths(index, asked, collate)
    assert sample_lengths(index, asked, collate).tolist() == first.tolist()
    assert counted == [24]
    assert sample_lengths(index.take(range(23, -1, -1)), asked, collate).tolist() == first[::-1].tolist()
    assert sample_lengths(index, asked[:1], collate).tolist() == first[:, :1].tolist()
    assert counted == [24] * 3
    with monkeypatch.context() as patch:
        patch.setitem(chat.KEY_GUIDE, "emotion", "any word")
        changed = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
        assert sample_lengths(index, asked, changed).tolist() != first.tolist()
    with monkeypatch.context() as patch:
        patch.setattr(type(collate.family), "image_tokens", lambda *_: 7)
        assert sample_lengths(index, asked, collate).tolist() != first.tolist()
    assert counted == [24] * 5
    for path in tmp_path.glob("lengths/*.npz"):
        path.write_bytes(path.read_bytes()[:-30])
    assert sample_lengths(index, asked, collate).tolist() == first.tolist()
    assert "counted anew" in caplog.text


def test_a_row_that_is_longer_than_was_planned_is_refused(world_tars: Path, tiny_qwen: Path) -> None:
    """Its records are not those whose tokens were counted: the row would take memory that nobody has planned."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True, max_tokens=640)
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    dataset = ConversationDataset(index, {"attributes": 1}, 3)
    lengths = dataset.lengths(collate)(0)
    fitting = int((lengths.cumsum() <= 640).sum())
    batch = collate([dataset[Slot(row, False)] for row in range(fitting)])
    assert batch["input_ids"].shape[1] == lengths[:fitting].sum()
    with pytest.raises(
        CollateError, match=rf"a row has {lengths[: fitting + 1].sum()} tokens: '{index.id(0)}' \({lengths[0]}\), .*=640"
    ):
        collate([dataset[Slot(row, False)] for row in range(fitting + 1)])


def test_an_image_with_all_its_questions_is_one_sample(world_tars: Path, tiny_qwen: Path) -> None:
    """Asked the same in every epoch, each answer counting by its objective's weight; its length is known from its record."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    dataset = ConversationDataset(index, {"attributes": 1.5, "explain": 0.0, "emotion": 0.5}, 3, all_questions=True)
    questions = [dataset[Slot(row, False, 1)] for row in range(len(index))]
    assert all(question.shares == (0.75, 0.25) for question in questions)
    assert [question.asked for question in questions] == [
        tuple(objective(name).available(index.record(row)) for name in ("attributes", "emotion")) for row in range(len(index))
    ]
    batch = collate(questions)
    assert batch["lengths"] == dataset.lengths(collate)(1).tolist() == dataset.longest(collate)(0).tolist()
    rows = PackedRows(dataset.lengths(collate), 640, epochs=2, seed=0)
    assert sorted(slot.index for row in rows for slot in row) == list(range(len(index)))
