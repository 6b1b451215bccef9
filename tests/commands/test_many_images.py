"""`emo explain` and `emo embed` on folders, globs, tars and Parquet files of paths: nothing lost, nothing done twice, bad images named."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emo_lightning.cli import main
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference import parts as parts_module
from emo_lightning.inference.bundle import bundle_fingerprint
from emo_lightning.inference.inputs import InputImage, entries
from emo_lightning.inference.many import embed_work, look_at_all
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.parts import ImageResult, OutputParts


@pytest.fixture(scope="module")
def photos(world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five pictures, one of them further down, one broken, and what is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep er").mkdir()
    index = TarIndex.open(world_tars)
    for row, name in enumerate(("a.png", "b.png", "deep er/c.jpg", "d.webp")):
        index.image(row).save(folder / name)
    (folder / "broken.jpg").write_bytes((folder / "deep er" / "c.jpg").read_bytes()[:500])
    (folder / "notes.txt").write_text("no picture")
    (folder / "a.explained.png").write_bytes((folder / "a.png").read_bytes())
    return folder


def read(path: Path) -> dict[str, np.ndarray]:
    """id -> DES."""
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["id"]: np.array(row["des"], np.float32) for row in rows}
    table = EmbeddingTable.read(path)
    return dict(zip(table.id, table.des, strict=True))


def test_pictures_from_everywhere_stand_in_one_table(
    photos: Path, world_tars: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = str(world_tars / "world-test-000000.tar")
    listed = {"path": ["b.png", "nowhere.png"], "id": ["bee", "gone"], "more": [1, 2]}
    shutil.copy(photos / "b.png", tmp_path / "b.png")
    pq.write_table(pa.table(listed), tmp_path / "list.parquet")
    command = ["embed", str(photos), tar, str(tmp_path / "list.parquet"), "--model", str(bundle), "--batch-size", "3"]
    assert main([*command, "--out", str(tmp_path / "des.parquet")]) == 0
    error = capsys.readouterr().err
    assert "2 images could not be opened" in error
    assert f"left out: {photos}/broken.jpg: does not decode" in error
    failed = [json.loads(line) for line in (tmp_path / "des.parquet.failed.jsonl").read_text().splitlines()]
    assert [row["id"] for row in failed] == [f"{photos}/broken.jpg", "gone"]
    assert "nowhere.png: no such file" in failed[1]["error"]
    found = read(tmp_path / "des.parquet")
    of_tar = [TarIndex.open(tar).id(row) for row in range(8)]
    assert list(found) == [f"{photos}/{name}" for name in ("a.png", "b.png", "d.webp", "deep er/c.jpg")] + of_tar + ["bee"]
    assert np.allclose(found["bee"], found[f"{photos}/b.png"], atol=1e-5)
    assert pq.read_schema(tmp_path / "des.parquet").field("des").type == pa.list_(pa.float32(), 32)
    assert main([*command, "--out", str(tmp_path / "des.jsonl")]) == 0
    for name, des in read(tmp_path / "des.jsonl").items():
        assert np.array_equal(des, found[name])
    assert not list(tmp_path.glob("*.parts"))


def test_an_interrupt_costs_one_part_and_nothing_is_done_twice(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parts_module, "IMAGES_PER_PART", 1)
    changing = tmp_path / "x.png"
    shutil.copy(photos / "a.png", changing)
    inputs, out = [str(changing), *(str(photos / name) for name in ("b.png", "d.webp"))], tmp_path / "des.parquet"
    seen: list[str] = []

    def interrupted(found: Sequence[InputImage], pictures: Sequence[Image.Image]) -> Sequence[ImageResult]:
        if seen:
            raise KeyboardInterrupt
        seen.extend(entry.id for entry in found)
        return embed_work(EmotionModel(bundle, "cpu"))(found, pictures)

    about = {"weights": bundle_fingerprint(bundle), "embeddings": 1}
    with pytest.raises(KeyboardInterrupt):
        look_at_all(entries(inputs), OutputParts(out, about), lambda: interrupted, 2, "embed")
    assert seen == inputs[:2]
    command = ["embed", *inputs, "--model", str(bundle), "--out", str(out)]
    # The first has become another picture since.
    shutil.copy(photos / "d.webp", tmp_path / "other.webp")
    Image.open(tmp_path / "other.webp").save(changing)
    assert main(command) == 0
    told = capsys.readouterr()
    assert "1 images are done already, 2 are left" in told.err
    assert re.fullmatch(rf"3 embeddings: {re.escape(str(out))} \(\d+\.\d images a second\)\n", told.out)
    assert "a second" not in told.err, "count and rate are said once"
    found = read(out)
    assert list(found) == inputs
    assert np.allclose(found[inputs[0]], found[inputs[2]], atol=1e-5)
    OutputParts(out, {**about, "weights": "of another model"}).flush()
    assert main(command) == 2
    assert f"{out}.parts was begun with another weights; remove it, or choose another --out" in capsys.readouterr().err


def test_explanations_are_predictions_and_pictures(photos: Path, bundle: Path, tmp_path: Path) -> None:
    command = ["explain", str(photos / "*.png"), str(photos / "broken.jpg"), "--model", str(bundle), "--max-new-tokens", "5"]
    out, overlays = tmp_path / "said.jsonl", tmp_path / "drawn"
    assert main([*command, "--out", str(out), "--overlays", str(overlays)]) == 0
    predictions = list(read_jsonl(out, Prediction))
    assert [p.id for p in predictions] == [f"{photos}/{name}" for name in ("a.png", "b.png")]
    assert all(len(p.provenance["replies"]) == 2 for p in predictions)  # type: ignore[arg-type]
    assert len(list(overlays.glob("*.explained.png"))) == 2
    assert main([*command, "--out", str(tmp_path / "said.parquet")]) == 0
    table = pq.read_table(tmp_path / "said.parquet")
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert table["id"].to_pylist() == [row["id"] for row in rows]
    assert table["probe_confidence"].to_pylist() == [row["probe"]["confidence"] for row in rows]
    assert table["agreement"].to_pylist() == ["no emotion said"] * 2
    assert np.allclose(np.array(table["des"].to_pylist()), [row["des"] for row in rows])
    assert table.schema.field("des").type == pa.list_(pa.float32(), 32)


def test_people_read_a_block(photos: Path, bundle: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pictures = [str(photos / name) for name in ("a.png", "broken.jpg", "b.png")]
    command = ["explain", "--model", str(bundle), "--max-new-tokens", "5", "--text"]
    assert main([*command, *pictures]) == 0
    text, error = capsys.readouterr()
    assert f"left out: {photos}/broken.jpg: does not decode" in error
    assert text.count("the words name none of the eight emotions") == 2
    width, height = Image.open(pictures[0]).size
    assert f"{photos}/a.png  ({width} × {height})" in text
    assert max(map(len, text.splitlines())) < 160
    nameless = tmp_path / os.fsdecode(b"\xff.png")
    shutil.copy(photos / "a.png", nameless)
    assert (
        main(["embed", str(photos / "a.png"), str(nameless), "--model", str(bundle), "--out", str(tmp_path / "o.jsonl")]) == 0
    )
    assert "its name is not UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "A", "B"], "2 images: add --out FILE.jsonl or FILE.parquet, or --text to read them here"),
        (["explain", "A", "--out", "x.txt"], "--out x.txt: expected FILE.jsonl or FILE.parquet, or of one image FILE.png"),
        (["explain", "A", "--text", "--out", "x.jsonl"], "--text is for the terminal"),
        (["embed", "A", "A", "--out", "x.jsonl"], "a.png: given twice"),
        (["embed", "EMPTY", "--out", "x.jsonl"], "no image there; expected JPEG, PNG or WebP files, tars"),
        (["embed", "EMPTY/*.png", "--out", "x.jsonl"], "no file matches"),
        (["embed", "L", "--out", "x.jsonl"], "row 0 names no image; expected text in a column path, file_name, url, image"),
    ],
)
def test_what_makes_no_sense_is_said_before_a_model_is_loaded(
    arguments: list[str],
    message: str,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    pq.write_table(pa.table({"path": [3]}), tmp_path / "l.parquet")
    places = {"A": photos / "a.png", "B": photos / "b.png", "EMPTY": tmp_path / "empty", "L": tmp_path / "l.parquet"}
    words = [str(places.get(word, word)).replace("EMPTY", str(tmp_path / "empty")) for word in arguments]
    assert main([*words, "--model", "nowhere"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
