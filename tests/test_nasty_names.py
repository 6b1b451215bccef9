"""A path means the file of that name: whatever globs, braces, YAML, SQLite's addresses and Unicode make of its characters."""

from __future__ import annotations

import io
import json
import tarfile
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from data_prep.cli import main as prep
from data_prep.export.read import read_records
from data_prep.store.store import Store
from emo_lightning.analysis.references import References
from emo_lightning.commands.des import _arm
from emo_lightning.commands.sweep import _fixed_values
from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import MANIFEST_FILE
from emo_lightning.core.names import as_on_disk
from emo_lightning.core.options import named_places
from emo_lightning.core.records import Record
from emo_lightning.data.shard_list import list_shards
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.report.build import build_report

NAMES = [
    "a#b",
    "a #b",
    "#",
    "[v2]",
    "a[0-9]",
    "]",
    "~",
    "~user",
    "lr=0.1",
    "a b",
    " a",
    "a,b",
    "{a}",
    "{0..3}",
    "{000..001}",
    "2026-11-29",
    "1e3",
    "2026",
    "on",
    "null",
    "a: b",
    "- a",
    "&a",
    "*a",
    "!a",
    "a?b",
    "a%20b",
    "a::b",
    "it's",
    '"a"',
    "@a",
    "-a",
    "été",
    "e\u0301te",
]
EXPERIMENT = "name: x\nvars: {train: data/*.tar, other: null}\nstages:\n  a: {run: sft, data: {train: '${vars.train}'}}\n"


def write_tar(path: Path, *keys: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key in keys:
            picture = io.BytesIO()
            Image.new("RGB", (8, 8), (len(key), 9, 9)).save(picture, "PNG")
            record = Record(id=key, source="s", width=8, height=8, sha256="0" * 64, split="test").to_json()
            for ending, data in (("png", picture.getvalue()), ("json", record)):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("name", NAMES)
def test_tars(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(name)
    for n in range(2):
        write_tar(folder / f"x-{n:06}.tar", f"k{n}")
    write_tar(folder / f"{name}.tar", "own")
    both = [f"{name}/x-000000.tar", f"{name}/x-000001.tar"]
    for root in ("", f"{tmp_path}/"):
        there = [root + one for one in both]
        assert [s.url for s in list_shards(f"{root}{name}/x-*.tar")] == there
        assert [s.url for s in list_shards(f"{root}{name}/x-{{000000..000001}}.tar")] == there
        assert [s.url for s in list_shards(f"{root}{name}/{name}.tar")] == [f"{root}{name}/{name}.tar"]
    assert len(TarIndex.open(name)) == 3
    assert References.load([f"{name}/{name}.tar"]).records[0].id == "own"
    assert len(list(read_records([name]))) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_path_on_the_command_line_of_an_experiment(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    Path("x.yaml").write_text(EXPERIMENT, encoding="utf-8")
    for key in ("vars.train", "a.data.train"):
        for path in (name, f"{name}/*.tar", f"{tmp_path}/{name}"):
            found = load_experiment("x.yaml", [(key, path)], runs=tmp_path)
            assert found.stages[0].config["data"]["train"] == path, key
    assert _fixed_values({"vars.train": f"{name}/*.tar"}) == {"vars.train": f"{name}/*.tar"}
    assert named_places("INPUT", [f"{name}/des.parquet", f"arm={name}"], _arm) == {name: f"{name}/des.parquet", "arm": name}
    if "::" in name:
        with pytest.raises(InputError, match="a run's folder cannot hold '::'"):
            load_experiment("x.yaml", name=name)
    else:
        assert load_experiment("x.yaml", name=name).stages[0].out == Path("runs", name, "a")


def test_what_is_no_path_is_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(EXPERIMENT, encoding="utf-8")
    Path("5").mkdir()
    given = [
        ("vars.train", "[a.tar, 'b #1.tar']"),
        ("a.trainer.max_steps", "5"),
        ("a.data.batch_size", "2"),
        ("vars.other", "null"),
    ]
    config = load_experiment("x.yaml", given).stages[0].config
    assert config["data"] == {"train": ["a.tar", "b #1.tar"], "batch_size": 2}
    assert config["trainer"] == {"max_steps": 5}


@pytest.mark.parametrize("name", NAMES)
def test_stores_and_imported_folders(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (Path("in") / name).mkdir(parents=True)
    Image.new("RGB", (70, 70), (200, 10, 10)).save(Path("in") / name / f"{name}.png")
    assert prep(["import", "folder", f"in/{name}", "--into", f"./{name}"]) == 0
    with Store(name, write=False) as store:
        (item,) = store.ledger.items()
        assert item.key == f"{name}.png"
    assert prep(["status", f"./{name}"]) == 0
    assert prep(["review", f"./{name}", "--report"]) == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_report_of_a_run(name: str, tmp_path: Path) -> None:
    stage = tmp_path / name / "a"
    stage.mkdir(parents=True)
    (stage / "stage.json").write_text(json.dumps({"kind": "sft", "status": "complete"}))
    report = build_report(tmp_path / name, tmp_path / name / f"{name}.html")
    assert report.html.is_file()


def test_one_name_in_two_spellings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    composed, apart = "été", unicodedata.normalize("NFD", "été")
    write_tar(tmp_path / apart / f"{apart}-0.tar", "k")
    assert as_on_disk(tmp_path / composed) == tmp_path / apart
    for said in (
        composed,
        f"{composed}/{composed}-0.tar",
        f"{composed}/{composed}-*.tar",
        f"{composed}/{composed}-{{0..0}}.tar",
    ):
        assert [s.url for s in list_shards(tmp_path / said)] == [str(tmp_path / apart / f"{apart}-0.tar")], said
    (tmp_path / apart / MANIFEST_FILE).write_text(json.dumps({"schema_version": 1, "shards": [{"file": f"{composed}-0.tar"}]}))
    for said in (composed, f"{composed}/{composed}-*.tar", f"{apart}/{apart}-*.tar", f"{apart}/*"):
        (shard,) = list_shards(tmp_path / said)
        assert shard.url == str(tmp_path / apart / f"{apart}-0.tar")
        assert shard.entry is not None, said
    assert not caplog.text


def test_a_folder_imported_again_in_the_other_spelling_is_known(tmp_path: Path) -> None:
    composed, apart = "été", unicodedata.normalize("NFD", "été")
    for n, name in (("0", apart), ("1", composed)):
        (tmp_path / n / name).mkdir(parents=True)
        Image.new("RGB", (70, 70), (200, 10, 10)).save(tmp_path / n / name / f"{name}.png")
    Image.new("RGB", (70, 70), (10, 10, 200)).save(tmp_path / "1" / composed / f"{apart}.png")
    for n in "01":
        assert prep(["import", "folder", str(tmp_path / n), "--into", str(tmp_path / "store"), "--name", "s"]) == 0
    with Store(tmp_path / "store", write=False) as store:
        # Another picture under that name is another picture.
        assert [item.key for item in store.ledger.items()] == [f"{apart}/{apart}.png", f"{composed}/{apart}.png"]
