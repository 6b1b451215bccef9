"""One image of a tar is damaged: what is true of the images is known all the same, and who needs its picture leaves it out and says so."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest

from emo_lightning.analysis.faithfulness import MaskPlan, faithfulness
from emo_lightning.analysis.mds import MdsMap
from emo_lightning.analysis.references import References
from emo_lightning.analysis.table5 import table5
from emo_lightning.core.records import Prediction
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.inputs import entries
from emo_lightning.inference.many import opened_batches
from emo_lightning.metrics.clip import ClipScorer, cosine01
from emo_lightning.models.tiny import words_of
from emo_lightning.report.mds_page import write_mds_page
from emo_lightning.report.panel import write_panel
from tests.analysis.test_faithfulness import Redness
from tests.made import as_json, make_prediction, make_record, write_tar

BOX = (10.0, 10.0, 30.0, 30.0)


@pytest.fixture
def damaged(tmp_path: Path) -> str:
    """Four images with an index beside their tar; afterwards one bit of the second turns over."""
    records = [
        make_record(f"i{n}", [BOX], emotion="awe", description=text)
        for n, text in enumerate(["a red dog", "the storm", "a cat", "a child cries"])
    ]
    path, _ = write_tar(tmp_path / "set-000000.tar", records)
    TarIndex.open(str(path))
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        data[tar.getmember("i1.png").offset_data + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(ShardError, match=r"i1\.png: CRC-32"):
        TarIndex.open(str(path))
    return str(path)


def said() -> dict[str, Prediction]:
    return {f"i{n}": make_prediction(f"i{n}", [BOX], emotion="awe", description="a red dog") for n in range(4)}


def test_records_are_read_and_the_picture_is_named(damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    truth = References.load(damaged)
    assert [record.id for record in truth.records] == ["i0", "i1", "i2", "i3"]
    assert [truth.picture(row) is None for row in (0, 1, 1, 2, 3)] == [False, True, True, False, False]
    assert list(truth.unreadable) == ["i1"]
    told = capsys.readouterr().err
    assert told.count("picture 1 that cannot be read, left out: ") == told.count("i1.png: CRC-32 of the bytes is") == 1
    with pytest.raises(ShardError, match=r"i1\.png: CRC-32"):
        truth.image(1)


def test_table_5_counts_all_records_and_the_pictures_that_there_are(damaged: str, clip_folder: Path) -> None:
    without = table5({"ours": said()}, References.load(damaged))
    assert (without["references"], without["arms"]["ours"]["strict"]["emotion_acc"]) == (4, 100)
    assert "unreadable" not in without
    truth, scorer = References.load(damaged), ClipScorer.load(str(clip_folder))
    found = table5({"ours": said(), "silent": {}}, truth, scorer=scorer, batch_size=3)
    assert found["unreadable"] == ["i1"]
    whole = [row for row in range(4) if row != 1]
    expected = np.mean(cosine01(scorer.images([truth.image(row) for row in whole]), scorer.texts(["a red dog"] * 3)))
    assert found["arms"]["ours"]["strict"]["clip_image_text"] == pytest.approx(100 * expected, abs=1e-4)
    assert (
        found["arms"]["ours"]["support"]["strict"]["clip_image_text"]
        == found["arms"]["silent"]["support"]["strict"]["clip_image_text"]
        == 3
    )
    assert found["arms"]["silent"]["strict"]["clip_image_text"] == 0
    assert found["arms"]["ours"]["support"]["strict"]["clip_score"] == 4


def test_a_panel_shows_others(damaged: str, tmp_path: Path) -> None:
    panel = write_panel(tmp_path, {"ours": said()}, References.load(damaged), 3, seed=0)
    assert sorted(item["id"] for item in panel["items"]) == ["i0", "i2", "i3"]
    assert [item["image"] for item in panel["items"]] == [f"panel/0{n}.jpg" for n in range(3)]
    assert len(write_panel(tmp_path, {"ours": said()}, References.load(damaged), 2, seed=0)["items"]) == 2


def test_a_map_shows_its_point_without_a_picture(damaged: str, tmp_path: Path) -> None:
    ids = [f"i{n}" for n in range(4)]
    near = np.array([[1], [0], [3], [2]])
    layout = MdsMap(np.eye(4)[:, :2], ["awe"] * 4, ids, 0.0, None, None, 1.0, 1.0, 1, 4, near)
    assert write_mds_page(tmp_path / "mds.html", {"a": layout}, References.load(damaged))["with_image"] == 3


def test_faithfulness_measures_the_others(damaged: str) -> None:
    found = as_json(faithfulness(Redness(), [damaged], None, MaskPlan(max_overlap=0.0, draws=2)))
    assert [row["id"] for row in found["rows"]] == ["i0", "i2", "i3"]
    assert found["skipped"] == {"whose picture cannot be read": 1}


def test_what_looks_at_many_images_names_it_and_goes_on(damaged: str) -> None:
    (batch,) = opened_batches(entries([damaged]), 8)
    assert [entry.id for entry in batch.entries] == ["i0", "i2", "i3"]
    assert list(batch.failures) == ["i1"]
    assert "i1.png: CRC-32" in batch.failures["i1"]


def test_words_are_those_of_the_records(damaged: str) -> None:
    assert {"dog", "storm", "cat", "child"} <= set(words_of([damaged]))
