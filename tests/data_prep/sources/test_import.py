"""Published data sets into a store: the report, what is known, and records to evaluate against."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import types
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.sources import PUBLISHED, SOURCES, open_source
from data_prep.sources.labels import source_record
from data_prep.store.store import Store
from tests.data_prep.sources.trees import read, write

ROWS = [
    {"id": "Awe1", "image_path": "images/1.png", "emotion": "Awe"},
    {"id": "Awe1", "image_path": "images/1.png", "emotion": "Awe"},
    {"id": "Fear2", "image_path": "images/2.png", "emotion": "Fear"},
    {"id": "Joy3", "image_path": "images/3.png", "emotion": "Joy"},
    {"id": "Fear4", "image_path": "images/4.png", "emotion": "Fear"},
    {"id": "Fear5", "image_path": "../5.png", "emotion": "Fear"},
]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return write(tmp_path / "release", {"test.json": ROWS, "images/1.png": 1, "images/2.png": 2, "images/3.png": 3})


def test_report_and_second_import(release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, refusals = str(tmp_path / "store"), tmp_path / "refused.jsonl"
    command = ["import", "emoverse", str(release), "--into", store, "--licence", "CC-BY-NC-4.0", "--refusals", str(refusals)]
    assert main(command) == 0
    shown = capsys.readouterr()
    assert "added 2, known already 0, changed since and left as they were 0" in shown.out
    assert "read 6: mapped to one of the eight 2, without a label 0, repeated rows 1, refused 3" in shown.out
    for kind in ("1 × unknown emotion 'Joy'", "1 × no such file", "1 × path with '..'"):
        assert kind in shown.out
    assert f"refused {release}/test.json[3]:1: unknown emotion 'Joy'; allowed: amusement" in shown.err
    written = [json.loads(line) for line in refusals.read_text().splitlines()]
    assert [(row["file"].split("/")[-1], row["line"]) for row in written] == [
        *((f"test.json[{i}]", 1) for i in (3, 4, 5)),
        ("3.png", None),
    ]
    assert "passed over 1 files" in shown.out
    assert "1 × no usable row names it (.png)" in shown.out

    write(release, {"images/4.png": 4})
    assert main(command) == 0
    assert "added 1, known already 2" in capsys.readouterr().out
    with Store(store, write=False) as opened:
        items = list(opened.ledger.items())
        records = [source_record(item) for item in items]
    assert {(item.key, item.split, item.licence) for item in items} == {
        *(("Awe1", "test", "CC-BY-NC-4.0"), ("Fear2", "test", "CC-BY-NC-4.0"), ("Fear4", "test", "CC-BY-NC-4.0"))
    }
    assert sorted(str(record.emotion) for record in records if record) == ["awe", "fear", "fear"]


def test_images_without_a_label_are_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "f", {"results_20130124.token": "1.jpg#0\tA dog\n2.jpg#0\tA cat\n", "images/1.jpg": 1, "images/2.jpg": 2})
    assert main(["import", "flickr30k", str(tmp_path / "f"), "--into", str(tmp_path / "store")]) == 0
    assert "read 2: mapped to one of the eight 0, without a label 2, repeated rows 0, refused 0" in capsys.readouterr().out
    with Store(tmp_path / "store", write=False) as store:
        assert [source_record(item) for item in store.ledger.items()] == [None, None]
        assert {item.group for item in store.ledger.items()} == {"flickr30k:1.jpg", "flickr30k:2.jpg"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["emoset", "{tmp}"], "the list of images is missing; looked for train.json, val.json, test.json"),
        (["emoset", "{tmp}", "--name", "mine"], "--name is for a folder or urls or images with labels of your own"),
        (["emoset", "{tmp}", "--refusals", "{tmp}/broken.json/x"], "cannot be written"),
        (["emoverse", "{tmp}/broken.json"], "broken.json:2: not JSON"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.json").write_text('[\n{"id" 1}]')
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["import", *given, "--into", str(tmp_path / "store")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_help_names_every_source_and_its_layout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["import", "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in ("world", *SOURCES))
    assert "annotations_single.ann" in text


def test_every_published_source_takes_a_licence() -> None:
    assert {open_source(name, licence="X").licence for name in PUBLISHED} == {"X"}  # type: ignore[attr-defined]


def test_an_unknown_source_is_told_all_names_and_the_drawn_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "emoset2", str(tmp_path), "--into", str(tmp_path / "store")]) == 2
    assert "unknown source 'emoset2'; allowed: folder, world, urls, labelled, emoset" in capsys.readouterr().err


def test_the_recipe_for_a_layout_without_an_index_works_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The diffs of the page are applied in `tests/docs/test_recipes.py`; this is its only method that stands in no diff."""
    page = (Path(__file__).parents[3] / "docs/recipes/data-source.md").read_text(encoding="utf-8")
    (method,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "images_in" in block)
    code = (
        "from __future__ import annotations\n"
        "from data_prep.sources.base import SourceRefusal\n"
        "from data_prep.sources.index_files import Place\n"
        "from data_prep.sources.indexed import Entry, IndexedSource\n"
        "from data_prep.sources.labels import category\n"
        "from data_prep.sources.tree import key_of\n"
        "def _entry(place, image):\n"
        "    return Entry(place, key_of(image), image, {'emotion': category(image.split('/')[-1].split('_')[0])})\n"
        "class MyDataSource(IndexedSource):\n"
        "    name = 'mydata'\n"
    )
    module = types.ModuleType("data_prep.sources.mydata")
    exec(code + textwrap.indent(textwrap.dedent(method), "    "), vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(PUBLISHED, "mydata", ("MyDataSource", "MyData: images/"))
    tree = write(tmp_path, {"images/awe_1.jpg": 1, "images/joy_2.jpg": 2, "images/fear_3.tif": b"II*\0"})
    items, refused, _ = read("mydata", tree)
    assert {key: item.labels for key, item in items.items()} == {"images/awe_1.jpg": {"emotion": "awe"}}
    assert [Path(refusal.file).name for refusal in refused] == ["fear_3.tif", "joy_2.jpg"]
