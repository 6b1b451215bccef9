"""`data.on_error: skip`: an image that cannot be read costs its own place and nothing else."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.data.collate import IGNORE, Collator
from emo_lightning.data.conversations import ConversationDataModule, ConversationDataset
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.packing import PackedRows
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import Skips
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.models.backbone import BackboneConfig, load_backbone
from tests.data.test_shard_indices import flip

WEIGHTS = {"attributes": 0.5, "emotion": 0.5}


@pytest.fixture
def tars(world_tars: Path, tmp_path: Path) -> Path:
    """A copy of the training tars."""
    for path in world_tars.glob("*-train-*"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def damage(index: TarIndex, row: int, extension: str) -> None:
    """Flip a bit in a member, with its tar's index known."""
    shard, member = index.where(row, extension).rsplit(":", 1)
    with tarfile.open(shard) as tar:
        flip(Path(shard), tar.getmember(member).offset_data + 50, 3)


@pytest.mark.parametrize("all_questions", [False, True])
def test_a_bad_image_is_a_filler_of_its_own_length(tars: Path, tiny_qwen: Path, all_questions: bool) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    index = TarIndex.open(tars)
    good = ConversationDataset(index, WEIGHTS, 3, all_questions)
    slots = [Slot(row, False, 0) for row in range(6)]
    before = collate([good[slot] for slot in slots])
    damage(index, 2, index.image_extension(2))
    with pytest.raises(ShardError, match="CRC-32"):
        good[slots[2]]
    after = collate([ConversationDataset(index, WEIGHTS, 3, all_questions, skip=True)[slot] for slot in slots])
    assert after["lengths"] == before["lengths"] == good.lengths(collate)(0)[:6].tolist()
    assert after["filler"].tolist() == [row == 2 for row in range(6)]
    ((key, fault),) = after["faults"]
    assert (key, f":{index.key(2)}." in fault, "faults" in before) == (index.id(2), True, False)
    assert after["input_ids"].equal(before["input_ids"])
    begin, end = sum(before["lengths"][:2]), sum(before["lengths"][:3])
    labels = before["labels"].clone()
    labels[:, begin:end] = IGNORE
    assert after["labels"].equal(labels)


def test_a_bad_record_stops(tars: Path) -> None:
    index = TarIndex.open(tars)
    damage(index, 2, "json")
    with pytest.raises(ShardError, match=r"\.json: CRC-32"):
        ConversationDataset(index, WEIGHTS, 3, skip=True)[Slot(2, False)]


def test_steps_stay_equal_and_each_is_named_once(tars: Path, tiny_qwen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over two epochs, two ranks, and a resume: whoever reads the stage's folder finds the same images."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    index = TarIndex.open(tars)
    bad = [1, 7, 20]
    for row in bad:
        damage(index, row, index.image_extension(row))
    dataset = ConversationDataset(index, WEIGHTS, 3, skip=True)
    steps, met = [], 0
    for rank in range(2):
        data = ConversationDataModule([str(tars)], [str(tars)], WEIGHTS, max_tokens=640, on_error="skip")
        data.skips.keep_in(tars / "stage", rank)
        rows = PackedRows(dataset.lengths(collate), 640, epochs=2, seed=0, rank=rank, world_size=2)
        loader = ResumableLoader(dataset, rows, collate_fn=collate, seen=data.seen)
        for epoch in range(2):
            loader.set_epoch(epoch)
            steps.append(sum(1 for _ in loader))
        met += len(data.skips.found)
    assert len(set(steps)) == 1
    assert met >= len(bad)
    again = Skips(10)
    again.keep_in(tars / "stage", 0)
    assert sorted(again.of_all_ranks()) == sorted(index.id(row) for row in bad) == sorted(data.skips.of_all_ranks())
    lines = [line for path in (tars / "stage").glob("skipped-*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len(bad) == capsys.readouterr().out.count("skipped: ")


def test_no_more_than_a_few(tmp_path: Path) -> None:
    skips = Skips(2)
    skips.keep_in(tmp_path, 1)
    for key in ("a", "a", "b", "a"):
        skips.add(key, f"{key}: broken")
    (tmp_path / "skipped-00001.jsonl").open("a").write('{"id": "c", "fau')  # killed in the middle of a line
    resumed = Skips(2)
    resumed.keep_in(tmp_path, 1)
    assert resumed.found == {"a": "a: broken", "b": "b: broken"}
    with pytest.raises(InputError, match=r"3 images cannot be read, more than data\.max_skipped=2; the last: c: broken"):
        resumed.add("c", "c: broken")
    assert [json.loads(line)["id"] for line in (tmp_path / "skipped-00001.jsonl").read_text().splitlines()[:2]] == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"on_error": "pass"}, "data.on_error='pass'; allowed: stop, skip"), ({"max_skipped": 0}, "data.max_skipped: found 0")],
)
def test_keys_are_checked(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ConversationDataModule(["a.tar"], ["b.tar"], WEIGHTS, **given)  # type: ignore[arg-type]
