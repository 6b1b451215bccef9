"""The whole road on real photographs: folder -> store -> annotated over HTTP -> tars -> embeddings -> explanation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import yaml
from PIL import Image

from data_prep.demo.simulation.serve import simulated_annotators
from data_prep.store.store import Store
from emo_lightning.cli import main
from emo_lightning.core.records import Emotion, GroundedObject, Record, intensity_level
from emo_lightning.data.tar_index import TarIndex

ROOT = Path(__file__).parents[1]

SEEN = {
    "astronaut": ("studio with a flag", "smiling", "astronaut", Emotion.CONTENTMENT, 5, "a smiling astronaut before a flag"),
    "coffee": ("wooden table", "steaming", "cup of coffee", Emotion.CONTENTMENT, 4, "a cup of coffee on a wooden table"),
    "chelsea": ("home", "watchful", "tabby cat", Emotion.AMUSEMENT, 6, "a tabby cat looks up"),
    "rocket": ("launch site", "ready to start", "rocket", Emotion.EXCITEMENT, 8, "a rocket stands on its launch pad"),
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with four photographs that scikit-image ships."""
    data = pytest.importorskip("skimage.data")
    folder = tmp_path_factory.mktemp("photos")
    for name in SEEN:
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.jpg", quality=92)
    (folder / "notes.txt").write_text("not an image")
    (folder / "broken.jpg").write_bytes((folder / "coffee.jpg").read_bytes()[:2000])
    return folder


def truth_of(store: Path) -> list[Record]:
    """What is to be seen on each photograph, as the simulated annotators know it."""
    records = []
    with Store(store, write=False) as opened:
        for item in opened.ledger.items():
            background, attribute, subject, emotion, intensity, description = SEEN[Path(item.key).stem]
            box = GroundedObject(phrase=subject, bbox=(1, 1, item.width - 1, item.height - 1), score=1.0, primary=True)
            records.append(
                Record(
                    id=item.id,
                    source=item.source,
                    width=item.width,
                    height=item.height,
                    sha256=item.sha256,
                    split="train",
                    description=description,
                    background=background,
                    attribute=attribute,
                    subject=subject,
                    emotion=emotion,
                    intensity=intensity,
                    intensity_level=intensity_level(intensity),
                    objects=[box],
                )
            )
    return records


def faultless(folder: Path) -> Path:
    """The world's configuration with annotators that make no mistake."""
    config = yaml.safe_load((ROOT / "configs/prep/world.yaml").read_text())
    config["prices"] = str(ROOT / "configs/prep/prices.yaml")
    for model in config["simulation"]["models"].values():
        for key, value in model.items():
            if key == "false_alarm":
                model[key] = dict.fromkeys(value, 0.0)
            elif isinstance(value, float):
                model[key] = 0.0
    path = folder / "pass.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def test_photographs(photographs: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, tars, config = tmp_path / "store", tmp_path / "tars", faultless(tmp_path)
    assert main(["prep", "import", "folder", str(photographs), "--into", str(store), "--licence", "CC0-1.0"]) == 0
    captured = capsys.readouterr()
    assert "added 4" in captured.out
    assert "broken.jpg" in captured.err

    truth = truth_of(store)
    assert len(truth) == 4
    with simulated_annotators(truth, config) as annotators:
        annotate = ["prep", "annotate", str(store), "--config", str(config), "--base-url", annotators.base_url]
        assert main(annotate) == 0
        bill = annotators.bill()
    assert sum(row["replies"] for row in bill.values()) >= 3 * 4
    assert main(["prep", "export", str(store), str(tars), "--name", "photos"]) == 0

    index = TarIndex.open(tars, verify=True)
    assert len(index) == 4
    known = {record.id: record for record in truth}
    for row in range(4):
        record = index.record(row)
        expected = known[record.id]
        assert (record.emotion, record.triplet) == (expected.emotion, expected.triplet)
        assert index.image(row).size == (expected.width, expected.height)
        # The bytes of the photograph are kept as they were.
        assert index.image_bytes(row)[0] == (photographs / f"{name_of(expected)}.jpg").read_bytes()

    # The same images, from the tars and as files, give the same embeddings.
    shards = sorted(str(path) for path in tars.glob("*.tar"))
    assert main(["embed", *shards, "--model", str(bundle), "--out", str(tmp_path / "des")]) == 0
    embedded = TarIndex.open(tmp_path / "des", verify=True)
    files = sorted(str(path) for path in photographs.glob("*.jpg") if path.stem != "broken")
    assert main(["embed", *files, "--model", str(bundle), "--out", str(tmp_path / "des.parquet"), "--batch-size", "2"]) == 0
    table = parquet.read_table(tmp_path / "des.parquet").to_pydict()
    single = {Path(name).stem: des for name, des in zip(table["id"], table["des"], strict=True)}
    for row in range(4):
        assert single[name_of(known[embedded.record(row).id])] == pytest.approx(
            np.asarray(embedded.des(row)).tolist(), abs=1e-5
        )

    capsys.readouterr()
    out = tmp_path / "cat.png"
    photo = str(photographs / "chelsea.jpg")
    assert main(["explain", photo, "--model", str(bundle), "--out", str(out), "--max-new-tokens", "4"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["width"], said["height"]) == (451, 300)
    assert out.stat().st_size > 10_000


def name_of(record: Record) -> str:
    """File name of a photograph, from what it shows."""
    return next(name for name, seen in SEEN.items() if seen[2] == record.subject)
