"""What FiftyOne is given: its layout, held by its own reader where the library is installed."""

from __future__ import annotations

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emo_lightning.analysis.fiftyone import write_fiftyone
from emo_lightning.cli import main
from emo_lightning.core.masks import decode_mask
from emo_lightning.core.records import PredictedObject, Prediction, SchemaError, write_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.tar_index import TarIndex


def array(value: dict) -> NDArray[np.generic]:
    """As `fiftyone.core.utils.deserialize_numpy_array` reads it."""
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(value["$binary"]["base64"]))))


@pytest.fixture(scope="module")
def written(world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[TarIndex, Path]:
    folder = tmp_path_factory.mktemp("fiftyone")
    index = TarIndex.open(str(world_tars / "*-test-*.tar"))
    records = [index.record(row) for row in range(len(index))]
    vectors = np.arange(len(records) * 4, dtype=np.float32).reshape(-1, 4)
    EmbeddingTable([r.id for r in records], [str(r.emotion) for r in records], ["test"] * len(records), vectors).write(
        folder / "des.parquet"
    )
    box = PredictedObject(bbox=(0, 0, records[0].width / 2, records[0].height), phrase=None, score=0.5)
    bad = PredictedObject(bbox=(0, 0, float("nan"), 1))
    said = Prediction(id=records[0].id, emotion="joy", confidence=float("inf"), objects=[box, bad], intensity=4.5)
    write_jsonl(folder / "said.jsonl", [said])
    options = ["--embeddings", str(folder / "des.parquet"), "--predictions", f"ours={folder / 'said.jsonl'}", "--name", "x"]
    assert main(["export-fiftyone", str(world_tars / "*-test-*.tar"), "--out", str(folder / "out"), *options]) == 0
    return index, folder / "out"


def test_the_layout_is_that_of_its_reader(written: tuple[TarIndex, Path], tmp_path: Path, world_tars: Path) -> None:
    index, out = written
    metadata = json.loads((out / "metadata.json").read_text())
    assert "version" not in metadata, "by this FiftyOne knows the layout"
    assert (metadata["name"], metadata["media_type"]) == ("x", "image")
    samples = json.loads((out / "samples.json").read_text())["samples"]
    assert len(samples) == len(index) == 8
    masks = 0
    for row, sample in enumerate(samples):
        record = index.record(row)
        assert (out / sample["filepath"]).read_bytes() == index.image_bytes(row)[0]
        assert (sample["record_id"], sample["tags"]) == (record.id, ["test"])
        assert sample["emotion"]["_cls"] == "Classification"
        assert (sample["emotion"]["label"], sample["emotion"]["confidence"]) == (str(record.emotion), record.confidence)
        assert sample["intensity"] == record.intensity
        assert array(sample["des"]).tolist() == [4 * row, 4 * row + 1, 4 * row + 2, 4 * row + 3]
        for known, shown in zip(record.objects, sample["objects"]["detections"], strict=True):
            left, top, width, height = shown["bounding_box"]
            assert (int(left * record.width), int((left + width) * record.width)) == (known.bbox[0], known.bbox[2]), (
                "as it is drawn"
            )
            assert (left * record.width, (left + width) * record.width) == pytest.approx((known.bbox[0], known.bbox[2]))
            assert (top * record.height, (top + height) * record.height) == pytest.approx((known.bbox[1], known.bbox[3]))
            assert known.mask is not None
            inside = array(shown["mask"])
            x1, y1, x2, y2 = (int(edge) for edge in known.bbox)
            assert inside.dtype == bool
            assert np.array_equal(inside, decode_mask(known.mask)[y1:y2, x1:x2])
            masks += 1
    assert masks >= 8
    first = samples[0]
    assert first["ours_emotion"]["label"] == "joy", "as the model said it"
    assert first["ours_emotion"]["confidence"] is None
    assert first["ours_intensity"] == 4.5
    assert len(first["ours_objects"]["detections"]) == 1, "no box of no numbers"
    assert first["ours_objects"]["detections"][0]["bounding_box"] == pytest.approx([0, 0, 0.5, 1], abs=1e-6)
    assert "ours_emotion" not in samples[1]
    ids = [label["_id"]["$oid"] for sample in samples for label in (sample["emotion"], *sample["objects"]["detections"])]
    assert len(set(ids)) == len(ids)
    write_fiftyone(str(world_tars / "*-test-*.tar"), tmp_path / "again")
    again = json.loads((tmp_path / "again" / "samples.json").read_text())["samples"]
    assert [sample["objects"] for sample in again] == [sample["objects"] for sample in samples], "the same at every export"


def test_the_library_reads_it(written: tuple[TarIndex, Path]) -> None:
    """Its importer, without its database: the samples that it would insert."""
    importers = pytest.importorskip("fiftyone.utils.data.importers")
    index, out = written
    assert importers.FiftyOneDatasetImporter(str(out))._is_legacy_format_data(), "so `FiftyOneDataset` takes it"
    importer = importers.LegacyFiftyOneDatasetImporter(str(out))
    with importer:
        samples = list(importer)
    assert len(samples) == len(index)
    for row, sample in enumerate(samples):
        record = index.record(row)
        assert Path(sample.filepath).is_file()
        assert sample.emotion.label == str(record.emotion)
        assert sample.des.tolist() == [4 * row, 4 * row + 1, 4 * row + 2, 4 * row + 3]
        assert [box.label for box in sample.objects.detections] == [one.phrase for one in record.objects]
        for box, known in zip(sample.objects.detections, record.objects, strict=True):
            assert known.mask is not None
            whole = box.to_segmentation(frame_size=(record.width, record.height), target=1).mask > 0
            assert np.array_equal(whole, decode_mask(known.mask)), "mask and box give the region back, pixel by pixel"
        assert sample.metadata.width == record.width


def test_what_is_wrong_is_named(world_tars: Path, tmp_path: Path) -> None:
    tars = str(world_tars / "*-test-*.tar")
    write_jsonl(tmp_path / "other.jsonl", [Prediction(id="nobody")])
    said = r"ours: is of none of the 8 images: it is e\.g\. of 'nobody', and they are e\.g\. '.+'; .* emo predict MODEL TARS"
    with pytest.raises(SchemaError, match=said):
        write_fiftyone(tars, tmp_path / "out", predictions={"ours": tmp_path / "other.jsonl"})
    EmbeddingTable(["photos/a.jpg"], [None], [""], np.ones((1, 4), np.float32)).write(tmp_path / "other.parquet")
    with pytest.raises(SchemaError, match=r"other.parquet: is of none of the 8 images: .* emo embed TARS --model FOLDER"):
        write_fiftyone(tars, tmp_path / "out", embeddings=tmp_path / "other.parquet")
    with pytest.raises(SchemaError, match="predictions 'a-b': a name begins fields"):
        write_fiftyone(tars, tmp_path / "out", predictions={"a-b": tmp_path / "other.jsonl"})
    assert main(["export-fiftyone", tars, "--out", str(tmp_path / "out"), "--predictions", "ours"]) == 2
    assert not (tmp_path / "out").exists()
