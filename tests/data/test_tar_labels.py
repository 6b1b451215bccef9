"""Tars of others, with a label in place of our record (`data.labels`), as webdataset itself writes them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from PIL import Image

from emo_lightning.core.emotions import Emotion
from emo_lightning.core.errors import InputError
from emo_lightning.core.images import encoded
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.labelled import LabelledDataModule
from emo_lightning.data.lengths import sample_lengths
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.tar_content import data_hash
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from tests.tasks.test_sft import trainer

NUMBERS = TarLabels("cls", {0: "amusement", 1: "fear", 2: None})


def picture(seed: int, **options: object) -> bytes:
    draw = np.random.default_rng(seed)
    return encoded(Image.fromarray(draw.integers(0, 256, (60, 80, 3), dtype=np.uint8)), "JPEG", **options)


def write(path: Path, count: int, seed: int = 0, image: str = "jpg", **more: object) -> Path:
    """As webdataset's own writer encodes them: `cls` is a number in decimal."""
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(count):
            label = number % 3
            word = ("Joy", " dread\n", "surprise")[label]
            writer.write({"__key__": f"{number:05}", image: picture(seed + number), "cls": label, "txt": word, **more})
    return path


def test_records_are_made_of_labels(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", 6)
    words = TarLabels("txt", {"joy": "amusement", "dread": "fear", "surprise": None})
    for labels in (NUMBERS, words):
        for _ in range(2):  # made, and read
            index = TarIndex.open(tar, labels=labels)
            record, image = index.sample(1)
            data = picture(1)
            assert (record.emotion, record.split, image.size) == (Emotion.FEAR, "", (80, 60))
            assert record.sha256 == hashlib.sha256(data).hexdigest() == index.hashes()[1]
            assert record.id == index.id(1) == f"00001-{record.sha256[:12]}"
            assert np.array_equal(np.asarray(image), np.asarray(Image.open(io.BytesIO(data))))
            assert index.has("emotion").tolist() == [True, True, False] * 2
            assert index.sizes().tolist() == [[80, 60]] * 6
    assert list(tmp_path.iterdir()) == [tar]


def test_upper_case_and_jpeg(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", 3, image="JPEG", CLS="1")
    with pytest.raises(ShardError, match="two members for json: 'cls', 'cls'"):
        TarIndex.open(tar, labels=NUMBERS)
    with webdataset.TarWriter(str(tar)) as writer:
        for number in range(3):
            writer.write({"__key__": f"sub/{number}", "JPEG": picture(number), "CLS": b"1"})
    assert [TarIndex.open(tar, labels=NUMBERS).record(row).emotion for row in range(3)] == [Emotion.FEAR] * 3


def test_identity_is_content_and_what_labels_mean(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", 6)
    other = TarLabels("cls", {0: "amusement", 1: "anger", 2: None})
    one, two = (TarIndex.open(tar, labels=labels) for labels in (NUMBERS, other))
    assert one.content != two.content
    assert one.records_hash != two.records_hash
    assert one.fingerprint != two.fingerprint
    first = data_hash([tar])
    moved = tar.rename(tmp_path / "b.tar")
    assert data_hash([moved]) == first
    write(moved, 6, seed=1)
    assert data_hash([moved]) != first


def test_lengths_are_of_each_picture_in_its_place(tmp_path: Path, tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tars with the same labels, and with pictures of the same sizes in another order: the labels alone do not tell them apart."""
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "cache"))
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen", min_pixels=28**2, max_pixels=336**2))
    collate = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    sides = [112, 336]
    indices = []
    for name, order in (("a", sides), ("b", sides[::-1])):
        with webdataset.TarWriter(str(tmp_path / f"{name}.tar")) as writer:
            for number, side in enumerate(order):
                image = encoded(Image.new("RGB", (side, side), (90, 20, 60)), "JPEG")
                writer.write({"__key__": str(number), "jpg": image, "cls": 1})
        indices.append(TarIndex.open(tmp_path / f"{name}.tar", labels=NUMBERS))
    one, two = (sample_lengths(index, [objective("emotion")], collate)[:, 0].tolist() for index in indices)
    assert indices[0].records_hash == indices[1].records_hash
    assert one[0] < one[1]
    assert two == one[::-1]


def test_our_records_are_read_by_themselves(world_tars: Path) -> None:
    plain = TarIndex.open(world_tars)
    declared = TarIndex.open(world_tars, labels=NUMBERS)
    assert declared.fingerprint == plain.fingerprint
    assert declared.record(0) == plain.record(0)


@pytest.mark.parametrize(
    ("sample", "labels", "said"),
    [
        ({"cls": "7"}, NUMBERS, r"a\.tar:00000\.cls: unknown label '7'; allowed: 0, 1, 2 \(data\.labels\.map\)"),
        ({"cls": b"\xff\xfe"}, NUMBERS, r"a\.tar:00000\.cls: the label is no text in UTF-8"),
        ({"cls": b"0" * 5000}, NUMBERS, r"a\.tar:00000\.cls: 5000 bytes; a label has 4096 at most"),
        ({"cls": "1", "jpg": b"none"}, NUMBERS, r"a\.tar:00000\.jpg: not an image in JPEG, PNG or WebP"),
        (
            {"cls": "1"},
            TarLabels("txt", {"joy": "amusement"}),
            r"no label member \(txt\); found \['jpg'\].*data\.labels\.member: txt",
        ),
        ({"cls": "1"}, None, r"no json member \(json\); found \['jpg'\]; what .* is declared by data\.labels"),
        ({"json": {"label": 1}}, NUMBERS, r"no label member \(cls\).*no record is one of ours"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, sample: dict[str, object], labels: TarLabels | None, said: str) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as writer:
        for number in range(2):
            whole = {"jpg": picture(number), **sample}
            writer.write(
                {
                    "__key__": f"{number:05}",
                    **{
                        k: v if isinstance(v, bytes) else yaml.safe_dump(v).split("\n")[0].strip("'").encode()
                        for k, v in whole.items()
                    },
                }
            )
    with pytest.raises(ShardError, match=said):
        TarIndex.open(tmp_path / "a.tar", labels=labels).has("emotion")


@pytest.mark.parametrize(
    ("member", "words", "said"),
    [
        ("json", {"a": "awe"}, "data.labels.member: found 'json'; expected the ending"),
        (".cls", {"a": "awe"}, "data.labels.member: found '.cls'"),
        ("cls", {}, "data.labels.map: no words"),
        ("cls", {"a": "joy"}, "data.labels.map: a: unknown emotion 'joy'"),
    ],
)
def test_declarations_are_checked(member: str, words: dict[str | int, str | None], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TarLabels(member, words)


def test_trained_on_directly(tmp_path: Path, tiny_qwen: Path) -> None:
    """Both sets number their samples from 0, as the shards of others do."""
    train, val = write(tmp_path / "a.tar", 9), write(tmp_path / "b.tar", 6, seed=100)
    backbone = BackboneConfig(str(tiny_qwen))
    tuned = BackboneConfig(str(tiny_qwen), tuning="lora", lora=LoRA(rank=2))
    data = ConversationDataModule([str(train)], [str(val)], {"emotion": 1.0}, max_tokens=400, labels=NUMBERS)
    fit = trainer(tmp_path / "sft", max_steps=2)
    fit.fit(SFTTask(tuned, OptimConfig(lr=1e-3)), datamodule=data)
    assert data.skipped == {"train": 3, "val": 2}
    assert np.isfinite(float(fit.callback_metrics["val/loss"]))
    heads = LabelledDataModule([str(train)], [str(val)], batch_size=4, labels=NUMBERS)
    trainer(tmp_path / "des", max_epochs=1).fit(DESTask(backbone=backbone), datamodule=heads)
    read = QuestionDataModule({"train": [str(train)], "val": [str(val)]}, ["emotion"], labels=NUMBERS)
    trainer(tmp_path / "features").test(FeatureTask(backbone), datamodule=read, verbose=False)
    cache = FeatureCache(tmp_path / "features" / "train")
    assert sorted(cache.columns.emotion.tolist()) == sorted([Emotion.AMUSEMENT.position, Emotion.FEAR.position, -1] * 3)
    with pytest.raises(InputError, match=r"data\.train: none of 9 records has labels for attributes"):
        ConversationDataModule([str(train)], [str(val)], {"attributes": 1.0}, labels=NUMBERS).dataset("train")


def test_the_same_image_in_both_sets_is_a_leak(tmp_path: Path) -> None:
    data = ConversationDataModule(
        [str(write(tmp_path / "a.tar", 9))], [str(write(tmp_path / "b.tar", 6, seed=5))], {"emotion": 1.0}, labels=NUMBERS
    )
    with pytest.raises(InputError, match="images of the set 'val' are also in 'train'"):
        data.setup("fit")
