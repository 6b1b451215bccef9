"""References of the least form and predictions, as JSON lines, Parquet and tars: one reader, the same table."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from emo_lightning.analysis.cross_dataset import trained_images
from emo_lightning.analysis.item_files import read_items
from emo_lightning.analysis.references import References, by_id, check_distinct, load_predictions
from emo_lightning.analysis.table5 import table5
from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Prediction, Record, Reference, SchemaError
from emo_lightning.core.tar_scan import ShardError

Rows = Sequence[Mapping[str, object]]

TRUTH: Rows = [
    {"id": "a", "emotion": "awe", "intensity": 7},
    {"id": "b", "emotion": "fear", "intensity": None},
    {"id": "c", "emotion": "Sadness", "intensity": 2},
]
SAID: Rows = [
    {"id": "a", "emotion": "awe", "intensity": 7.0, "emotion_scores": {"awe": 0.75, "fear": 0.25}},
    {"id": "b", "emotion": "joy", "intensity": 4.5, "emotion_scores": {"fear": 1.0}},
    {"id": "c", "emotion": None, "intensity": None, "emotion_scores": None},
]


def lines(path: Path, rows: Rows) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path: Path, rows: Rows) -> Path:
    path = path.with_suffix(".parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), path)
    return path


def pandas_parquet(path: Path, rows: Rows) -> Path:
    """As people write it: a number that is missing makes a column of floats with NaN, what is nested is JSON text."""
    flat = [{key: json.dumps(value) if isinstance(value, dict | list) else value for key, value in row.items()} for row in rows]
    numbers = {"intensity": [float("nan") if row.get("intensity") is None else row["intensity"] for row in rows]}
    columns = {key: [row.get(key) for row in flat] for key in flat[0]} | numbers
    path = path.with_suffix(".parquet")
    types = {"intensity": pyarrow.float64()}
    pyarrow.parquet.write_table(
        pyarrow.table({key: pyarrow.array(value, types.get(key), from_pandas=False) for key, value in columns.items()}), path
    )
    return path


def tar(path: Path, rows: Rows) -> Path:
    """Records alone, without images."""
    path = path.with_suffix(".tar")
    with tarfile.open(path, "w") as out:
        for row in rows:
            member = tarfile.TarInfo(f"{row['id']}.json")
            data = json.dumps(row).encode()
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("write", [lines, parquet, pandas_parquet, tar])
def test_the_least_form_is_scored_from_any_file(tmp_path: Path, write: Callable[[Path, Rows], Path]) -> None:
    truth = References.load(write(tmp_path / "truth", TRUTH))
    assert [(one.id, one.emotion, one.intensity) for one in truth.records] == [
        ("a", "awe", 7),
        ("b", "fear", None),
        ("c", "sadness", 2),
    ]
    assert not truth.has_images
    assert truth.splits == "unknown"
    said = load_predictions(write(tmp_path / "said", SAID), truth)
    assert said["a"].emotion_scores == {"awe": 0.75, "fear": 0.25}
    assert said["b"].emotion_scores == {"fear": 1.0}, "a struct has every key of every row"
    assert (said["c"].emotion, said["c"].intensity, said["c"].emotion_scores) == (None, None, None)
    column = table5({"ours": said}, truth, resamples=0)["arms"]["ours"]
    assert column["strict"]["emotion_acc"] == pytest.approx(100 / 3)
    assert column["support"]["strict"]["emotion_acc"] == 3
    assert column["paper"]["intensity_acc"] == pytest.approx(50.0), "one of two; what is not annotated is not scored"
    assert column["support"]["strict"]["bbox_iou"] == 0


def test_the_command_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = parquet(tmp_path / "said", SAID)
    assert main(["eval", str(said), str(tar(tmp_path / "truth", TRUTH)), "--mode", "strict", "--json", "--resamples", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["references"] == 3


def test_tars_with_images_and_records_of_the_least_form_are_read_without_images(world_tars: Path, tmp_path: Path) -> None:
    source = next(iter(sorted(world_tars.glob("*test*.tar"))))
    kept = []
    with tarfile.open(source) as old, tarfile.open(tmp_path / "least.tar", "w") as new:
        for member in old:
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            if member.name.endswith(".json"):
                data = json.dumps({key: json.loads(data)[key] for key in ("id", "emotion")}).encode()
                kept.append(member.name)
                member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    assert len(References.load(tmp_path / "least.tar")) == len(kept)
    assert not References.load(tmp_path / "least.tar").has_images
    whole = References.load(source)
    assert whole.has_images
    assert all(isinstance(record, Record) for record in whole.records)
    assert len(by_id(source)) == len(kept), "records are predictions too: of people, say"


def test_what_a_table_needs_is_missed_by_name() -> None:
    box = {"phrase": "dog", "bbox": [1, 2, 9, 9], "score": 1}
    boxed = Reference.model_validate({"id": "a", "objects": [box], "emotion": "awe"})
    with pytest.raises(SchemaError, match="reference 'a': key 'width' is missing; its boxes are scored"):
        table5({}, References([boxed]), resamples=0)
    sized = boxed.model_copy(update={"width": 10, "height": 10})
    assert table5({}, References([sized, Reference(id="b", emotion="fear")]), resamples=0)["references"] == 2  # type: ignore[arg-type]
    with pytest.raises(
        SchemaError, match="none of the 1 references has a label that Table 5 scores; expected any of description"
    ):
        table5({}, References([Reference(id="a")]), resamples=0)
    with pytest.raises(SchemaError, match="reference 'a': key 'sha256' is missing; by it images that were trained on"):
        trained_images([boxed])
    with pytest.raises(SchemaError, match="key 'sha256' is missing; the sets 'x' and 'y' both have that id"):
        check_distinct({"x": [boxed], "y": [sized]})


@pytest.mark.parametrize(
    ("write", "where"), [(lines, r"x\.jsonl:2"), (parquet, r"x\.parquet: row 2"), (tar, r"x\.tar:b\.json")]
)
def test_a_wrong_row_is_named(tmp_path: Path, write: Callable[[Path, Rows], Path], where: str) -> None:
    path = write(tmp_path / "x", [{"id": "a", "emotion": "awe"}, {"id": "b", "emotion": "joy"}])
    with pytest.raises(InputError, match=where + ".*joy"):
        References.load(path)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    rows = parquet(tmp_path / "x", [{"name": "a"}])
    with pytest.raises(SchemaError, match="column id is missing"):
        list(read_items(rows, Prediction))
    with pytest.raises(SchemaError, match=r"expected \.jsonl or \.parquet files or tars, not none and not both"):
        References.load([rows, tar(tmp_path / "y", TRUTH)])
    whole = tar(tmp_path / "z", TRUTH).read_bytes()
    (tmp_path / "z.tar").write_bytes(whole[:700])
    with pytest.raises(ShardError, match=r"truncated|ends|cut"):
        References.load(tmp_path / "z.tar")


def test_a_name_of_its_own_says_nothing(tmp_path: Path) -> None:
    """JSON lines in `answers.json`, and a tar without an ending."""
    lines = '{"id": "a", "emotion": "awe"}\n{"id": "b", "emotion": "fear"}\n'
    for name in ("answers.json", "answers", "answers.txt"):
        (tmp_path / name).write_text(lines)
        assert [item.id for item in read_items(tmp_path / name, Prediction)] == ["a", "b"]
    with tarfile.open(tmp_path / "shard", "w") as tar:
        member = tarfile.TarInfo("c.json")
        member.size = len(data := b'{"id": "c", "emotion": "awe"}')
        tar.addfile(member, io.BytesIO(data))
    assert [item.id for item in read_items(tmp_path / "shard", Reference)] == ["c"]
