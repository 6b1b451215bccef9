"""`data.on_error: skip` where a picture has no size to plan with: no header in a tar of others, or longer than any backbone takes."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from emo_lightning.core import shard_index
from emo_lightning.core.emotions import Emotion
from emo_lightning.core.errors import InputError
from emo_lightning.core.images import encoded
from emo_lightning.core.records import Prediction, Record, read_jsonl
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data import tar_index
from emo_lightning.data.collate import Collator, faults_in
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.packing import PackedRows
from emo_lightning.data.pairs import PairDataModule
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.data.sampler import Slot
from emo_lightning.data.skips import Skips
from emo_lightning.data.stand_ins import STAND_IN_SIZE
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.sampling import Sampling
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.sft import SFTTask
from emo_lightning.tasks.vision import VisionTask
from tests.data.test_tar_index import write_tar
from tests.data.test_tar_labels import NUMBERS, picture
from tests.tasks.test_sft import trainer
from tests.tasks.test_vision import ALONE, FIELDS
from tests.worded import worded_qwen  # noqa: F401 - fixture

PAGE = b"<!DOCTYPE html><title>403 Forbidden</title>"
LONG = (1000, 4)
FAULTS = {2: b"", 4: PAGE, 7: encoded(Image.new("RGB", LONG, (90, 20, 60)), "JPEG")}
"""Row -> what stands in the place of its picture."""


def write_foreign(path: Path, count: int, faults: dict[int, bytes], seed: int = 0) -> Path:
    """Labels in turn; keys from 0, as others number the samples of each shard."""
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(count):
            image = faults.get(number, picture(seed + number))
            writer.write({"__key__": f"{number:05}", "jpg": image, "cls": number % 2})
    return path


def lengthen(path: Path, places: set[int]) -> None:
    """Write a tar of ours anew, with very long pictures in some places; their records say so."""
    with tarfile.open(path) as tar:
        held = {name: file.read() for name in tar.getnames() if (file := tar.extractfile(name)) is not None}
    for place, key in enumerate([name.removesuffix(".json") for name in held if name.endswith(".json")]):
        if place not in places:
            continue
        image = next(name for name in held if name.startswith(f"{key}.") and name.endswith((".jpg", ".png", ".webp")))
        held[image] = encoded(Image.new("RGB", LONG, (place, 20, 60)), "PNG")
        said = json.loads(held[f"{key}.json"])
        said |= {"width": LONG[0], "height": LONG[1], "sha256": hashlib.sha256(held[image]).hexdigest()}
        for box in said.get("objects", []):
            box.update(bbox=[900, 0, 1000, 4], mask=None)
        held[f"{key}.json"] = Record.model_validate(said).to_json()
    write_tar(path, held)


class Sets:
    """Tars for training and validation, and the ids of those that are no pictures, and what they are counted by."""

    def __init__(self, train: str, val: str, bad: set[tuple[str, str]], labels: TarLabels | None) -> None:
        self.train, self.val = [train], [val]
        self.bad, self.names = sorted({one for one, _ in bad}), sorted(name for _, name in bad)
        self.more: dict[str, Any] = {} if labels is None else {"labels": labels}


@pytest.fixture(params=["ours", "others"])
def sets(request: pytest.FixtureRequest, world_tars: Path, tmp_path: Path) -> Sets:
    """The same bytes (none) stand in both sets of others, under the same key: no leak, and no name that comes twice."""
    if request.param == "others":
        paths = [write_foreign(tmp_path / "a.tar", 12, FAULTS), write_foreign(tmp_path / "b.tar", 6, {2: b""}, 100)]
        found = [TarIndex.open(path, stand_ins=True, bad_images=True, labels=NUMBERS) for path in paths]
        bad = {(index.id(row), index.name(row)) for index, rows in zip(found, (FAULTS, (2,)), strict=True) for row in rows}
        assert len({one for one, _ in bad}) == len(bad) - 1
        return Sets(str(paths[0]), str(paths[1]), bad, NUMBERS)
    bad = set()
    for name, places in (("world-train-000000.tar", {1, 3}), ("world-val-000000.tar", {0})):
        (tmp_path / name).write_bytes((world_tars / name).read_bytes())
        lengthen(tmp_path / name, places)
        index = TarIndex.open(tmp_path / name)
        bad |= {(index.id(row), index.id(row)) for row in places}
    return Sets(str(tmp_path / "world-train-*.tar"), str(tmp_path / "world-val-*.tar"), bad, None)


Fitted = Callable[[Sets, BackboneConfig, Path, dict[str, Any]], Any]


def _sft(**size: object) -> Fitted:
    def run(sets: Sets, backbone: BackboneConfig, out: Path, skip: dict[str, Any]) -> ConversationDataModule:
        data = ConversationDataModule(sets.train, sets.val, {"emotion": 1.0}, **size, **sets.more, **skip)  # type: ignore[arg-type]
        tuned = BackboneConfig(backbone.path, tuning="lora", lora=LoRA(rank=2), vision_cache=backbone.vision_cache)
        fit = trainer(out, max_epochs=1)
        fit.fit(SFTTask(tuned, OptimConfig(lr=1e-3)), datamodule=data)
        assert torch.isfinite(fit.callback_metrics["val/loss"])
        return data

    return run


def _des(sets: Sets, backbone: BackboneConfig, out: Path, skip: dict[str, Any]) -> LabelledDataModule:
    data = LabelledDataModule(sets.train, sets.val, batch_size=4, **sets.more, **skip)
    trainer(out, max_epochs=1).fit(DESTask(backbone=backbone), datamodule=data)
    return data


def _asked(task: type[PredictTask] | type[FeatureTask]) -> Fitted:
    def run(sets: Sets, backbone: BackboneConfig, out: Path, skip: dict[str, Any]) -> QuestionDataModule:
        data = QuestionDataModule({"train": sets.train, "val": sets.val}, ["emotion"], **sets.more, **skip)
        given: dict[str, Any] = {"max_new_tokens": 2} if task is PredictTask else {}
        trainer(out).test(task(backbone, **given), datamodule=data, verbose=False)
        if task is PredictTask:
            found = {p.id for p in read_jsonl(out / "predictions.jsonl", Prediction)}
        else:
            found = {key for name in data.sets for key in FeatureCache(out / name).keys}
        assert found == {data.index(name).id(row) for name in data.sets for row in range(len(data.index(name)))} - set(sets.bad)
        return data

    return run


STAGES: dict[str, Fitted] = {
    "padded": _sft(batch_size=4),
    "packed": _sft(max_tokens=640),
    "des_online": _des,
    "predict": _asked(PredictTask),
    "features": _asked(FeatureTask),
}


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_leaves_them_out(sets: Sets, tiny_qwen: Path, tmp_path: Path, stage: str, cached: bool) -> None:
    backbone = BackboneConfig(str(tiny_qwen), vision_cache=str(tmp_path / "cache") if cached else "off")
    data = STAGES[stage](sets, backbone, tmp_path / "out", {"on_error": "skip"})
    assert sorted(data.skips.of_all_ranks()) == sets.names
    for name, fault in data.skips.of_all_ranks().items():
        assert ".tar:" not in name or fault.startswith(f"{name}: ")
        assert ".tar:" in fault
        assert any(
            said in fault for said in ("not an image in JPEG, PNG or WebP, but ", "1000x4: aspect ratio above 200, which")
        )
    with pytest.raises(InputError, match=r"images cannot be read, more than data\.max_skipped=1"):
        STAGES[stage](sets, backbone, tmp_path / "one", {"on_error": "skip", "max_skipped": 1})


@pytest.mark.parametrize("stage", STAGES)
def test_without_it_the_first_is_named(sets: Sets, tiny_qwen: Path, tmp_path: Path, stage: str) -> None:
    said = (
        r"a\.tar:00002\.jpg: not an image .*, but 0 bytes"
        if sets.more
        else r"train-000000\.tar:\S+\.\w+: the picture of .* 1000x4"
    )
    with pytest.raises(InputError, match=said):
        STAGES[stage](sets, BackboneConfig(str(tiny_qwen)), tmp_path / "out", {})


def test_a_policy_and_a_tower_leave_them_out(
    sets: Sets,
    worded_qwen: Path,  # noqa: F811
    tiny_qwen: Path,
    tmp_path: Path,
) -> None:
    backbone, sampling = BackboneConfig(str(worded_qwen), tuning="full"), Sampling(replies=2, max_new_tokens=2)
    learnt = RolloutDataModule(sets.train, sets.val, batch_size=6, on_error="skip", **sets.more)
    trainer(tmp_path / "policy", max_epochs=1).fit(GRPOTask(backbone, sampling=sampling), datamodule=learnt)
    assert sorted(learnt.skips.of_all_ranks()) == sets.names
    if sets.more:
        return
    alone = BackboneConfig(str(tiny_qwen), **ALONE)
    pairs = PairDataModule(sets.train, sets.val, batch_size=8, on_error="skip")
    trainer(tmp_path / "tower", max_epochs=1).fit(VisionTask(alone, FIELDS), datamodule=pairs)
    assert sorted(pairs.skips.of_all_ranks()) == sets.names
    with pytest.raises(InputError, match=r"train-000000\.tar:\S+: the picture of .* has 1000x4 pixels"):
        trainer(tmp_path / "stop", max_epochs=1).fit(VisionTask(alone, FIELDS), datamodule=PairDataModule(sets.train, sets.val))


def test_a_resumed_training_leaves_out_the_same(sets: Sets, tiny_qwen: Path, tmp_path: Path) -> None:
    backbone = BackboneConfig(str(tiny_qwen), tuning="lora", lora=LoRA(rank=2))

    def run(out: Path, start: Path | None = None) -> tuple[dict[str, str], float]:
        torch.manual_seed(0)
        data = ConversationDataModule(
            sets.train, sets.val, {"emotion": 1.0}, batch_size=2, limit=10, on_error="skip", **sets.more
        )
        last = ModelCheckpoint(out, "{step}", save_top_k=-1, every_n_train_steps=1)
        fit = trainer(out, max_steps=5, callbacks=[last], enable_checkpointing=True)
        fit.fit(SFTTask(backbone, OptimConfig(lr=1e-3, warmup=0)), datamodule=data, ckpt_path=start)
        return data.skips.met, float(fit.callback_metrics["train/loss"])

    whole = run(tmp_path / "whole")
    assert whole[0]
    assert run(tmp_path / "resumed", tmp_path / "whole/step=2.ckpt") == whole


def test_lengths_and_steps_are_planned(sets: Sets, tiny_qwen: Path) -> None:
    """What is planned is what the batch has, on every rank."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    index = TarIndex.open(sets.train, bad_images=True, stand_ins=True, **sets.more)
    dataset = ConversationDataset(index, {"emotion": 0.5} if sets.more else {"emotion": 0.5, "attributes": 0.5}, 3, skip=True)
    rows = [row for row in range(len(index)) if index.id(row) in sets.bad]
    batch = collate([dataset[Slot(row, False, 0)] for row in rows])
    assert batch["lengths"] == dataset.lengths(collate)(0)[rows].tolist()
    assert batch["filler"].all()
    assert [key for key, _ in batch["faults"]] == [index.name(row) for row in rows]
    steps = set()
    for rank in range(2):
        plan = PackedRows(dataset.lengths(collate), 640, epochs=1, seed=0, rank=rank, world_size=2)
        steps.add(sum(1 for _ in ResumableLoader(dataset, plan, collate_fn=collate)))
    assert len(steps) == 1


def test_the_same_page_in_two_tars_is_two_images(tmp_path: Path) -> None:
    """Under the same key it has the same id, by which they would be one; each is counted, once, whoever meets it how often."""
    paths = [str(write_foreign(tmp_path / f"{name}.tar", 3, {0: PAGE}, seed)) for name, seed in (("a", 0), ("b", 10))]

    def met(most: int, rank: int) -> Skips:
        data = ConversationDataModule(
            paths, paths, {"emotion": 1.0}, batch_size=2, on_error="skip", max_skipped=most, labels=NUMBERS
        )
        data.skips.keep_in(tmp_path / "stage", rank)
        dataset = data.dataset("train")
        for _ in range(2):
            found = [dataset[Slot(row, False, 0)] for row in range(len(dataset.index))]
            data.seen({"faults": faults_in(found)})
        return data.skips

    with pytest.raises(InputError, match=r"2 images cannot be read, more than data\.max_skipped=1"):
        met(1, 0)
    names = [f"{path}:00000.jpg" for path in paths]
    assert [list(met(2, rank).of_all_ranks()) for rank in (0, 1)] == [names, names]


def test_what_is_known_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label counts although its picture is none; one that is too large to be read has an id as well."""
    monkeypatch.setattr(shard_index, "MAX_IMAGE_BYTES", 20_000)
    monkeypatch.setattr(tar_index, "MAX_IMAGE_BYTES", 20_000)
    paths = [write_foreign(tmp_path / f"{name}.tar", 4, {1: b"", 2: b"x" * 20_001}) for name in "ab"]
    index = TarIndex.open(paths[0], bad_images=True, stand_ins=True, labels=NUMBERS)
    assert index.stand_ins.tolist() == [False, True, True, False]
    assert index.sizes().tolist() == [[80, 60], list(STAND_IN_SIZE), list(STAND_IN_SIZE), [80, 60]]
    assert index.has("emotion").all()
    assert index.splits() == [""] * 4
    assert [index.record(row).emotion for row in range(4)] == [Emotion.AMUSEMENT, Emotion.FEAR] * 2
    assert [index.record(row).id for row in range(4)] == [index.id(row) for row in range(4)]
    for row, said in ((1, r"a\.tar:00001\.jpg: not an image .*, but 0 bytes"), (2, r"00002\.jpg: 20001 bytes; at most 20000")):
        with pytest.raises(ShardError, match=said):
            index.picture(row, index.record(row))
    plain = TarIndex.open(paths[0], labels=NUMBERS)
    assert (plain.content, plain.fingerprint) == (index.content, index.fingerprint)
    with pytest.raises(ShardError, match=r"a\.tar:00001\.jpg"):
        plain.sizes()


def test_a_bad_label_stops(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for number, label in enumerate((0, 9)):
            writer.write({"__key__": str(number), "jpg": b"", "cls": label})
    index = TarIndex.open(tmp_path / "a.tar", bad_images=True, stand_ins=True, labels=NUMBERS)
    with pytest.raises(ShardError, match=r"a\.tar:1\.cls: unknown label '9'"):
        index.has("emotion")


def test_a_record_that_lies_about_a_long_picture_is_told(tmp_path: Path) -> None:
    image = picture(1)
    said = {
        "id": "a",
        "source": "s",
        "width": LONG[0],
        "height": LONG[1],
        "sha256": hashlib.sha256(image).hexdigest(),
        "split": "",
    }
    write_tar(tmp_path / "a.tar", {"a.jpg": image, "a.json": Record.model_validate(said).to_json()})
    index = TarIndex.open(tmp_path / "a.tar", stand_ins=True)
    assert np.array_equal(index.sizes(), [STAND_IN_SIZE])
    with pytest.raises(ShardError, match=r"a\.tar:a\.jpg: image is 80x60, its record says 1000x4"):
        index.picture(0, index.record(0))
