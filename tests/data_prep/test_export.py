from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from data_prep.config import SplitConfig
from data_prep.export import ExportError, assigned_split, write_shards
from data_prep.ledger import Item
from emo_lightning.schema import Record


def samples(toys: list) -> list[tuple[Record, bytes, str]]:
    return [(record, data, "png") for record, data in toys]


def read_all(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_shards_are_what_the_manifest_says_and_the_same_every_time(tmp_path: Path, toys: list) -> None:
    manifest = write_shards(samples(toys), tmp_path / "a", "toy", 7, excluded={"human": 2})
    write_shards(samples(toys), tmp_path / "b", "toy", 7, excluded={"human": 2})
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b")
    assert manifest == json.loads((tmp_path / "a/manifest.json").read_text())
    assert manifest["counts"] == {"train": 18, "val": 6}
    assert [s["count"] for s in manifest["shards"]] == [7, 7, 4, 6]
    assert [s["file"] for s in manifest["shards"]] == [*(f"toy-train-{i:06d}.tar" for i in range(3)), "toy-val-000000.tar"]
    assert sum(manifest["label_counts"]["train"].values()) == 18
    assert manifest["excluded"] == {"human": 2}


def test_webdataset_and_datasets_read_them(tmp_path: Path, toys: list, monkeypatch: pytest.MonkeyPatch) -> None:
    import webdataset

    manifest = write_shards(samples(toys), tmp_path / "t", "toy", 10)
    by_id = {record.id: (record, data) for record, data in toys}
    files = [str(tmp_path / "t" / s["file"]) for s in manifest["shards"]]
    seen = set()
    for sample in webdataset.WebDataset(files, shardshuffle=False):
        record, data = by_id[sample["__key__"]]
        assert sample["png"] == data
        assert sample["json"] == record.to_json()
        seen.add(record.id)
    assert seen == set(by_id)

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset("webdataset", data_files={"train": files}, split="train", cache_dir=str(tmp_path / "cache"))
    assert {row["__key__"] for row in rows} == set(by_id)
    for row in rows:
        record, data = by_id[row["__key__"]]
        assert row["json"]["emotion"] == record.emotion
        assert row["png"].convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_a_smaller_export_leaves_no_stale_shard(tmp_path: Path, toys: list) -> None:
    write_shards(samples(toys), tmp_path, "toy", 4)
    (tmp_path / "other-train-000000.tar").write_bytes(b"not ours")
    write_shards(samples(toys)[:5], tmp_path, "toy", 4)
    assert {p.name for p in tmp_path.iterdir()} == {
        "manifest.json", "toy-train-000000.tar", "toy-val-000000.tar", "other-train-000000.tar",
    }  # fmt: skip


def test_an_interrupted_export_has_no_manifest(tmp_path: Path, toys: list) -> None:
    write_shards(samples(toys), tmp_path, "toy", 4)

    def breaks():
        yield from samples(toys)[:5]
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_shards(breaks(), tmp_path, "toy", 4)
    assert not (tmp_path / "manifest.json").exists()


def test_bad_input_is_one_clear_error(tmp_path: Path, toys: list) -> None:
    record, data = toys[0]
    for bad, message in (
        ([(record, data, "png")] * 2, "appears twice"),
        ([(record, data + b"x", "png")], "sha256"),
        ([(record, data, "gif")], "extension 'gif'"),
        ([(record.model_copy(update={"split": "../x"}), data, "png")], "split"),
        ([], "no record"),
    ):
        with pytest.raises(ExportError, match=message):
            write_shards(bad, tmp_path / "x", "toy")


def test_groups_stay_in_one_split_and_shares_hold() -> None:
    def item(number: int, group: str | None) -> Item:
        return Item(str(number), "s", str(number), f"{number:064x}", "png", 1, 1, None, group, {}, [], None, None)

    shares = SplitConfig(train=0.8, val=0.1, test=0.1)
    assert len({assigned_split(item(i, "g"), shares) for i in range(50)}) == 1
    splits = [assigned_split(item(i, None), shares) for i in range(4000)]
    assert abs(splits.count("train") / 4000 - 0.8) < 0.03
    assert abs(splits.count("val") / 4000 - 0.1) < 0.02
