"""`data.on_error: skip`: an image that cannot be read costs its own place and nothing else."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.data.batches import RolloutBatch
from emo_lightning.data.collate import IGNORE_INDEX, Collator
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.packing import PackedRows
from emo_lightning.data.pairs import PairDataModule
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.skips import Skips, left_out
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.sampling import Sampling
from emo_lightning.models.tiny_clip import build_clip
from emo_lightning.tasks.clip import CLIPTask
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.grpo_rollouts import Rollout
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.sft import SFTTask
from emo_lightning.tasks.tallies import Means
from emo_lightning.tasks.vision import VisionTask
from tests.data.test_shard_indices import flip
from tests.ranks import run_ranks
from tests.tasks.test_sft import trainer
from tests.tasks.test_vision import ALONE, FIELDS
from tests.worded import worded_qwen  # noqa: F401 - fixture

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
    labels[:, begin:end] = IGNORE_INDEX
    assert after["labels"].equal(labels)


def test_a_bad_record_stops(tars: Path) -> None:
    index = TarIndex.open(tars)
    damage(index, 2, "json")
    for bad_images in (False, True):
        with pytest.raises(ShardError, match=r"\.json: CRC-32"):
            TarIndex.open(tars, bad_images=bad_images)
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
        met += len(data.skips.met)
    assert len(set(steps)) == 1
    assert met >= len(bad)
    again = Skips(10)
    again.keep_in(tars / "stage", 0)
    assert not again.met
    assert sorted(again.of_all_ranks()) == sorted(index.id(row) for row in bad) == sorted(data.skips.of_all_ranks())
    lines = [line for path in (tars / "stage").glob("skipped-*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == len(bad) == capsys.readouterr().out.count("skipped: ")


def splits(tars: Path) -> tuple[list[str], list[str]]:
    return [str(tars / "*-train-*.tar")], [str(tars / "*-val-*.tar")]


@pytest.fixture
def three_bad(tars: Path, world_tars: Path) -> tuple[Path, list[str]]:
    """Tars of which two images of the training set and one of the validation set are damaged, and their ids."""
    for path in world_tars.glob("*-val-*"):
        shutil.copy(path, tars / path.name)
    ids = []
    for index, rows in zip([TarIndex.open(pattern) for pattern in splits(tars)], ((2, 5), (1,)), strict=True):
        for row in rows:
            damage(index, row, index.image_extension(row))
            ids.append(index.id(row))
    return tars, sorted(ids)


@pytest.mark.parametrize("cached", [False, True])
def test_a_training_logs_them_and_a_resumed_one_the_same(
    three_bad: tuple[Path, list[str]], tiny_qwen: Path, tmp_path: Path, cached: bool
) -> None:
    tars, bad = three_bad
    train, val = splits(tars)
    backbone = BackboneConfig(
        str(tiny_qwen), tuning="lora", lora=LoRA(rank=2), vision_cache=str(tmp_path / "cache") if cached else "off"
    )

    def run(out: Path, start: Path | None = None) -> ConversationDataModule:
        torch.manual_seed(0)
        data = ConversationDataModule(train, val, {"attributes": 1.0}, max_tokens=640, limit=12, on_error="skip")
        last = ModelCheckpoint(out, "{step}", save_top_k=-1, every_n_train_steps=1)
        fit = trainer(
            out,
            max_steps=6,
            log_every_n_steps=1,
            callbacks=[last],
            enable_checkpointing=True,
            logger=CSVLogger(out, name="", version=""),
        )
        fit.fit(SFTTask(backbone, OptimConfig(lr=1e-3, warmup=0)), datamodule=data, ckpt_path=start)
        return data

    def logged(out: Path) -> list[tuple[str, ...]]:
        with (out / "metrics.csv").open() as file:
            return [(row["step"], row["data/skipped"], row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]

    whole = run(tmp_path / "whole")
    assert sorted(whole.summary()["unreadable"]) == bad  # type: ignore[call-overload]
    resumed = run(tmp_path / "resumed", tmp_path / "whole" / "step=3.ckpt")
    assert resumed.skips.met == whole.skips.met
    assert logged(tmp_path / "resumed") == logged(tmp_path / "whole")[3:]
    assert {float(row[1]) for row in logged(tmp_path / "whole")} <= {0.0, 1.0, 2.0, 3.0}
    with pytest.raises(ShardError, match="CRC-32"):
        trainer(tmp_path / "stop", max_steps=6).fit(
            SFTTask(backbone), datamodule=ConversationDataModule(train, val, {"attributes": 1.0}, limit=12)
        )


def skipped_by_step(out: Path) -> list[float]:
    with (out / "metrics.csv").open() as file:
        return [float(row["data/skipped"]) for row in csv.DictReader(file) if row["data/skipped"]]


def fit_of_two_ranks(train: list[str], val: list[str], model: Path, out: Path) -> None:
    """Two steps of an epoch, of two images a rank."""
    torch.manual_seed(0)
    data = ConversationDataModule(train, val, {"emotion": 1.0}, batch_size=2, limit=8, on_error="skip", num_workers=0)
    fit = trainer(out, max_steps=2, devices=2, strategy="ddp", log_every_n_steps=1, logger=CSVLogger(out, name="", version=""))
    fit.fit(SFTTask(BackboneConfig(str(model), tuning="lora", lora=LoRA(rank=2)), OptimConfig(lr=1e-3)), datamodule=data)
    saved = data.state_dict()["skipped"]
    (out / f"met-{fit.global_rank}.json").write_text(json.dumps(saved))


@pytest.mark.slow
def test_what_another_rank_leaves_out_is_counted(tars: Path, world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Rank 0 writes the metrics, and reads none of the images that are none."""
    for path in world_tars.glob("*-val-*"):
        shutil.copy(path, tars / path.name)
    train, val = splits(tars)
    index = TarIndex.open(train)
    steps = [list(EpochBatches(8, 2, seed=0, rank=1, world_size=2))[step] for step in range(2)]
    bad = [index.id(batch[0].index) for batch in steps]
    for batch in steps:
        damage(index, batch[0].index, index.image_extension(batch[0].index))
    run_ranks(partial(fit_of_two_ranks, train, val, tiny_qwen, tmp_path))
    assert skipped_by_step(tmp_path) == [1.0, 2.0]
    assert not (tmp_path / "skipped-00000.jsonl").exists()
    for rank in (0, 1):
        assert list(json.loads((tmp_path / f"met-{rank}.json").read_text())) == bad


def test_answers_features_and_heads_leave_them_out(
    three_bad: tuple[Path, list[str]], tiny_qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tars, bad = three_bad
    train, val = splits(tars)
    ids = {one.id(row) for path in (train, val) for one in [TarIndex.open(path, bad_images=True)] for row in range(len(one))}
    backbone = BackboneConfig(str(tiny_qwen))
    sets = {"train": train, "val": val}
    asked = QuestionDataModule(sets, ["emotion"], on_error="skip")
    trainer(tmp_path / "said").test(PredictTask(backbone, max_new_tokens=2), datamodule=asked, verbose=False)
    assert {p.id for p in read_jsonl(tmp_path / "said" / "predictions.jsonl", Prediction)} == ids - set(bad)
    read = QuestionDataModule(sets, ["emotion"], on_error="skip")
    trainer(tmp_path / "features").test(FeatureTask(backbone), datamodule=read, verbose=False)
    assert {key for name in sets for key in FeatureCache(tmp_path / "features" / name).keys} == ids - set(bad)
    heads = LabelledDataModule(train, val, batch_size=4, on_error="skip")
    trainer(tmp_path / "des", max_epochs=1).fit(DESTask(backbone=backbone), datamodule=heads)
    for data, folder in ((asked, "said"), (read, "features"), (heads, "des")):
        assert sorted(data.skips.of_all_ranks()) == bad
        assert len((tmp_path / folder / "skipped-00000.jsonl").read_text().splitlines()) == len(bad)
    assert "3 images cannot be read and have no predictions" in capsys.readouterr().out


def test_a_pair_without_an_image_is_none(three_bad: tuple[Path, list[str]], world_tars: Path, tmp_path: Path) -> None:
    """The others are told from those that are there: as if the batch had never had it."""
    tars, _ = three_bad
    words = [one for row in range(8) for one in str(TarIndex.open(splits(world_tars)[0]).record(row).description).split()]
    task = CLIPTask(str(build_clip(tmp_path / "clip", words)))
    bad = PairDataModule(*splits(tars), on_error="skip").dataset("train")
    good = PairDataModule(*splits(world_tars)).dataset("train")
    batch = task.collate([bad[Slot(row, False)] for row in range(8)])
    expected = task.collate([good[Slot(row, False)] for row in range(8) if row not in (2, 5)])
    assert [key for key, _ in batch["faults"]] == [good[Slot(row, False)].key for row in (2, 5)]
    assert batch["key"] == expected["key"]
    assert not batch["filler"].any()
    assert all(value.equal(expected["inputs"][name]) for name, value in batch["inputs"].items())
    alone = task.collate([bad[Slot(2, False)], bad[Slot(5, False)]])
    assert alone["filler"].tolist() == [True]


def test_a_tower_learns_from_the_others(
    three_bad: tuple[Path, list[str]], world_tars: Path, tiny_qwen: Path, tmp_path: Path
) -> None:
    """The loss of a batch is that of the images that can be read; a whole training names the others."""
    tars, bad = three_bad

    def task() -> VisionTask:
        return VisionTask(BackboneConfig(str(tiny_qwen), **ALONE), FIELDS, OptimConfig(lr=1e-3, warmup=0))

    one = task()
    one.configure_model()
    found = PairDataModule(*splits(tars), on_error="skip").dataset("train")
    whole = PairDataModule(*splits(world_tars)).dataset("train")
    batch = one.collate([found[Slot(row, False)] for row in range(6)])
    expected = one.collate([whole[Slot(row, False)] for row in range(6) if row not in (2, 5)])
    assert batch["filler"].tolist() == [row in (2, 5) for row in range(6)]
    (total, count), (other, number) = (one._step(each, "train") for each in (batch, expected))
    assert int(count) == int(number) == 4
    assert torch.allclose(total, other, rtol=1e-5)
    data = PairDataModule(*splits(tars), batch_size=8, on_error="skip")
    trainer(tmp_path / "skip", max_epochs=1).fit(task(), datamodule=data)
    assert sorted(data.skips.of_all_ranks()) == sorted(data.summary()["unreadable"]) == bad  # type: ignore[call-overload]
    with pytest.raises(ShardError, match="CRC-32"):
        trainer(tmp_path / "stop", max_epochs=1).fit(task(), datamodule=PairDataModule(*splits(tars)))


def test_a_policy_learns_from_the_others(
    three_bad: tuple[Path, list[str]],
    worded_qwen: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    """What it says of an image that cannot be read is in no sum, neither of the loss nor of the accuracies."""
    tars, bad = three_bad
    train, val = splits(tars)

    class Counted(GRPOTask):
        """Keeps which replies count, and how many answers of a validation do."""

        kept: ClassVar[list[tuple[list[str], list[bool]]]] = []
        answered: ClassVar[list[int]] = []

        def _rollout(self, batch: RolloutBatch, means: Means) -> Rollout:
            found = super()._rollout(batch, means)
            self.kept.append((batch["key"], found.counts.tolist()))
            return found

        def _greedy(self, batch: RolloutBatch, policy: Backbone) -> tuple[Any, Any, Any]:
            found = super()._greedy(batch, policy)
            self.answered.append(len(found[0]))
            return found

    data = RolloutDataModule(train, val, batch_size=6, limit=12, on_error="skip")
    backbone, sampling = BackboneConfig(str(worded_qwen), tuning="full"), Sampling(replies=2, max_new_tokens=4)
    trainer(tmp_path / "skip", max_epochs=1).fit(Counted(backbone, sampling=sampling), datamodule=data)
    counted = {key: counts[2 * n : 2 * n + 2] for keys, counts in Counted.kept for n, key in enumerate(keys)}
    assert len(counted) == 12
    assert {key for key, counts in counted.items() if not any(counts)} == {key for key in bad if "-train-" in key}
    assert all(all(counts) for key, counts in counted.items() if key not in bad)
    # One batch, of each policy.
    assert set(Counted.answered) == {len(data.dataset("val")) - 1}
    assert sorted(data.skips.of_all_ranks()) == bad
    stop = RolloutDataModule(train, val, batch_size=6, limit=12)
    with pytest.raises(ShardError, match="CRC-32"):
        trainer(tmp_path / "stop", max_epochs=1).fit(GRPOTask(backbone, sampling=sampling), datamodule=stop)


def test_no_more_than_a_few(tmp_path: Path) -> None:
    skips = Skips(2)
    skips.keep_in(tmp_path, 1)
    for key in ("a", "a", "b", "a"):
        skips.add(key, f"{key}: broken")
    (tmp_path / "skipped-00001.jsonl").open("a").write('{"id": "c", "fau')  # killed in the middle of a line
    resumed = Skips(2)
    resumed.keep_in(tmp_path, 0)
    assert resumed.of_all_ranks() == {"a": "a: broken", "b": "b: broken"}
    said = r"3 images cannot be read, more than data\.max_skipped=2; the last: c: broken"
    with pytest.raises(InputError, match=said):
        resumed.add("c", "c: broken")
    again = Skips(2)
    again.keep_in(tmp_path, 0)
    with pytest.raises(InputError, match=said):
        again.add("c", "c: broken")
    assert [json.loads(line)["id"] for line in (tmp_path / "skipped-00001.jsonl").read_text().splitlines()[:2]] == ["a", "b"]


def test_what_is_left_out_after_a_kill_in_mid_line_is_counted(tmp_path: Path) -> None:
    """By the rank that was killed: its next line begins behind the half of one."""
    first = Skips(2)
    first.keep_in(tmp_path, 0)
    first.add("a", "a: broken")
    with (tmp_path / "skipped-00000.jsonl").open("a") as file:
        file.write('{"id": "b", "fau')
    resumed = Skips(2)
    resumed.keep_in(tmp_path, 0)
    resumed.add("b", "b: broken")
    assert left_out(tmp_path) == {"a": "a: broken", "b": "b: broken"}
    other = Skips(2)
    other.keep_in(tmp_path, 1)
    with pytest.raises(InputError, match=r"3 images cannot be read, more than data\.max_skipped=2"):
        other.add("c", "c: broken")


@pytest.mark.parametrize("key", ["a\x85b", "a\u2028b", "a\x0cb\x1c", "a\rb", "a\udcffb"])
def test_a_name_may_hold_what_ends_lines_elsewhere(tmp_path: Path, key: str) -> None:
    skips = Skips(2)
    skips.keep_in(tmp_path, 0)
    skips.add(key, f"{key}: broken")
    assert left_out(tmp_path) == {key: f"{key}: broken"}


@pytest.mark.parametrize(
    ("given", "said"),
    [({"on_error": "pass"}, "data.on_error='pass'; allowed: stop, skip"), ({"max_skipped": 0}, "data.max_skipped: found 0")],
)
def test_keys_are_checked(given: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        ConversationDataModule(["a.tar"], ["b.tar"], WEIGHTS, **given)  # type: ignore[arg-type]
