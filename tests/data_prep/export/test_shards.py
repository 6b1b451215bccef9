from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data_prep.export import ExportError, write_shards
from emo_lightning.core.records import Record
from tests.data_prep.conftest import picture


def samples(toys: list) -> list[tuple[Record, bytes, str]]:
    return [(record, data, "png") for record, data in toys]


def read_all(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_shards_are_what_the_manifest_says_and_the_same_every_time(tmp_path: Path, toys: list) -> None:
    manifest = write_shards(samples(toys), tmp_path / "a", "toy", 7, excluded={"human": 2})
    write_shards(samples(toys), tmp_path / "b", "toy", 7, excluded={"human": 2})
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b")
    # Two exports of one second would not show a clock, those of one machine not its users.
    for shard in manifest["shards"]:
        with tarfile.open(tmp_path / "a" / shard["file"]) as tar:
            assert {(m.mtime, m.uid, m.gid, m.mode, m.uname, m.gname) for m in tar} == {(0, 0, 0, 0o644, "", "")}
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
        "manifest.json",
        "README.md",
        "toy-train-000000.tar",
        "toy-train-000000.index.npz",
        "toy-val-000000.tar",
        "toy-val-000000.index.npz",
        "other-train-000000.tar",
    }


def test_an_export_that_breaks_off_leaves_the_one_before_as_it_was(tmp_path: Path, toys: list) -> None:
    def breaks() -> Iterator[tuple[Record, bytes, str]]:
        yield from samples(toys)[:9]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_shards(breaks(), tmp_path, "toy", 4)
    assert list(tmp_path.iterdir()) == [], "nothing that a reader could take for an export"
    write_shards(samples(toys), tmp_path, "toy", 4)
    before = read_all(tmp_path)
    with pytest.raises(OSError, match="No space"):
        write_shards(breaks(), tmp_path, "toy", 4)
    assert read_all(tmp_path) == before


def test_what_a_killed_export_left_is_cleared_away(tmp_path: Path, toys: list) -> None:
    (tmp_path / ".toy.partial").mkdir()
    (tmp_path / ".toy.partial/toy-train-000000.tar").write_bytes(b"half")
    write_shards(samples(toys), tmp_path, "toy", 100)
    tars = {f"toy-{split}-000000.{kind}" for split in ("train", "val") for kind in ("tar", "index.npz")}
    assert {p.name for p in tmp_path.iterdir()} == {"manifest.json", "README.md", *tars}


def test_a_card_of_somebody_else_is_not_replaced(tmp_path: Path, toys: list) -> None:
    (tmp_path / "README.md").write_text("# my notes\n")
    with pytest.raises(ExportError, match=r"README\.md: not a dataset card"):
        write_shards(samples(toys), tmp_path, "toy")
    assert {p.name for p in tmp_path.iterdir()} == {"README.md"}


def test_a_folder_holds_one_export(tmp_path: Path, toys: list) -> None:
    write_shards(samples(toys), tmp_path, "toy", 9)
    before = read_all(tmp_path)
    with pytest.raises(ExportError, match=r"manifest\.json: is of an export named 'toy', not 'other'"):
        write_shards(samples(toys), tmp_path, "other")
    assert read_all(tmp_path) == before
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ExportError, match=r"manifest\.json: not the manifest of an export"):
        write_shards(samples(toys), tmp_path, "toy")


def test_the_folder_loads_with_its_splits_whatever_the_records_hold(
    tmp_path: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images of two kinds, and provenance whose keys and types differ after the fifth sample: inference would fail on both."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    given = []
    for number, (record, data) in enumerate(toys):
        extension = "png" if number < 12 else "jpg"
        image = data if number < 12 else picture(number, kind="JPEG")
        provenance = {"licence": "CC0-1.0"} if number < 9 else {"licence": "CC-BY-4.0", "reason": {"n": [number, "two", None]}}
        change = {"provenance": provenance, "sha256": hashlib.sha256(image).hexdigest()}
        given.append((record.model_copy(update=change), image, extension))
    manifest = write_shards(given, tmp_path / "t", "toy", 7)
    loaded = datasets.load_dataset(str(tmp_path / "t"), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in loaded.items()} == manifest["counts"] == {"train": 18, "val": 6}
    by_id = {record.id: (record, extension) for record, _, extension in given}
    for rows in loaded.values():
        for row in rows:
            record, extension = by_id[row["__key__"]]
            assert row["json"] == json.loads(record.to_json())
            assert row[extension].size == (40, 32)
            assert row["jpg" if extension == "png" else "png"] is None
    assert "several types" in (tmp_path / "t" / "README.md").read_text()


def test_the_card_says_what_is_inside(tmp_path: Path, toys: list) -> None:
    said = [{"annotator": "a", "model": "model-x", "round": 0}, {"annotator": "a", "model": "model-x", "round": 1}]
    given = [(r.model_copy(update={"provenance": {"licence": "CC0-1.0", "said": said}}), data, "png") for r, data in toys]
    write_shards(given, tmp_path, "toy", excluded={"human": 3})
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["size_categories"]) == ("cc0-1.0", ["n<1K"])
    assert [f["split"] for f in head["configs"][0]["data_files"]] == ["train", "val"]
    for line in ("| model-x | 24 |", "| human | 3 |", "| CC0-1.0 | 24 |", "| toy | 24 |", "| images | 18 | 6 | 24 | |"):
        assert line in text, line
    assert str(tmp_path) not in text


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
