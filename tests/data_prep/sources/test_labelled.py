"""Images with labels of one's own: folders, splits, tables, and maps of words."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.sources import SourceError, SourceItem, SourceRefusal, open_source
from data_prep.sources.base import PassedOver
from emo_lightning.cli import main
from emo_lightning.core.emotions import Emotion
from emo_lightning.core.errors import InputError
from emo_lightning.core.label_map import label_map, read_label_map
from tests.data_prep.sources.trees import read, said, write

WORDS = {"joy": Emotion.AMUSEMENT, "sad": Emotion.SADNESS, "surprise": None}


def labels(items: dict[str, SourceItem]) -> dict[str, tuple[str | None, object, object]]:
    """Split, emotion and the source's own word by key."""
    return {key: (item.split, item.labels.get("emotion"), item.labels["emotion_raw"]) for key, item in items.items()}


def test_a_folder_for_each_of_the_eight(tmp_path: Path) -> None:
    write(tmp_path, {"Awe/one.jpg": 1, "fear/deep/er/two.JPEG": 2, "joy/three.png": 3, "notes.txt": "hello"})
    items, refused, repeated = read("labelled", tmp_path)
    assert labels(items) == {"Awe/one.jpg": (None, "awe", "awe"), "fear/deep/er/two.JPEG": (None, "fear", "fear")}
    assert said(refused, tmp_path) == [
        "joy: unknown label 'joy'; allowed: amusement, awe, contentment, excitement, anger, disgust, fear, sadness"
    ]
    assert repeated == []


def test_folders_of_splits_and_words_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, {"train/joy/1.jpg": 1, "valid/sad/2.jpg": 2, "test/surprise/3.jpg": 3, "sad/4.jpg": 4})
    found = list(open_source("labelled", labels=WORDS, source_name="mine").read(tmp_path))
    items = {item.key: item for item in found if isinstance(item, SourceItem)}
    assert labels(items) == {
        "train/joy/1.jpg": ("train", "amusement", "joy"),
        "valid/sad/2.jpg": ("val", "sadness", "sad"),
        "test/surprise/3.jpg": ("test", None, "surprise"),
        "sad/4.jpg": (None, "sadness", "sad"),
    }
    assert {item.source for item in items.values()} == {"mine"}
    # A label may be called like a split where the map says so.
    test = list(open_source("labelled", labels={"test": Emotion.AWE}).read(write(tmp_path / "b", {"test/5.jpg": 5})))
    assert [item.labels.get("emotion") for item in test if isinstance(item, SourceItem)] == ["awe"]


def test_accents_may_be_composed_or_not(tmp_path: Path) -> None:
    """macOS names folders with the letter and its accent apart."""
    apart, composed = "fierte\u0301", "fiert\u00e9"
    words = label_map({composed: "awe"}, "words.yaml")
    write(tmp_path, {f"{apart}/1.jpg": 1, "2.jpg": 2, "labels.csv": f"image,emotion,split\n2.jpg,{apart},{apart}\n"})
    for place, split in ((tmp_path, None), (tmp_path / "labels.csv", composed)):
        found = [one for one in open_source("labelled", labels=words).read(place) if isinstance(one, SourceItem)]
        assert [(one.split, one.labels.get("emotion"), one.labels["emotion_raw"]) for one in found] == [
            (split, "awe", composed)
        ]
    with pytest.raises(InputError, match=f"words.yaml: '{composed}' stands there twice"):
        label_map({composed: "awe", apart: "fear"}, "words.yaml")


@pytest.mark.parametrize("header", ["image,emotion,split", "Path;Label;split", "file_name\tclass\tsplit"])
def test_a_table(tmp_path: Path, header: str) -> None:
    mark = next(m for m in ",;\t" if m in header)
    rows = [header, "a/one.jpg,Joy,training", "two.png,surprise,", "none.jpg,sad,test", "two.png,rage,test"]
    write(tmp_path, {"a/one.jpg": 1, "two.png": 2, "other.jpg": 4, "labels.csv": "\n".join(rows).replace(",", mark)})
    found = list(open_source("labelled", labels=WORDS).read(tmp_path / "labels.csv"))
    items = {item.key: item for item in found if isinstance(item, SourceItem)}
    assert labels(items) == {"a/one.jpg": ("train", "amusement", "joy"), "two.png": (None, None, "surprise")}
    refused = [one for one in found if isinstance(one, SourceRefusal)]
    assert said(refused, tmp_path) == [
        "labels.csv:4: no such file: 'none.jpg'",
        "labels.csv:5: unknown label 'rage'; allowed: joy, sad, surprise",
    ]
    # The table's folder may hold what is none of it.
    assert not any(isinstance(one, PassedOver) for one in found)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("file,mood\na.jpg,awe\n", "labels.csv:1: column emotion or label or class or category is missing; found: file, mood"),
        ("", "labels.csv: empty; expected a header with image or file"),
        ("image,path,emotion\na.jpg,a.jpg,awe\n", "columns image and path say the same; keep one"),
    ],
)
def test_a_table_without_its_columns(tmp_path: Path, rows: str, message: str) -> None:
    write(tmp_path, {"labels.csv": rows, "a.jpg": 1})
    with pytest.raises(SourceError, match=message):
        list(open_source("labelled").read(tmp_path / "labels.csv"))


@pytest.mark.parametrize(
    "table",
    [
        "\n \nimage,emotion\na.jpg,awe\n",
        "image;emotion;tags,a,b,c\na.jpg;awe;x\n",
        "image,[emotion]\na.jpg,awe\n",
        '"image"\t"emotion"\n"a.jpg"\t"awe"\n',
    ],
    ids=["blank lines first", "more of another mark", "brackets", "quotes between tabs"],
)
def test_the_header_is_read_by_the_columns_that_it_must_have(tmp_path: Path, table: str) -> None:
    write(tmp_path, {"labels.csv": table, "a.jpg": 1})
    items, refused, _ = read("labelled", tmp_path / "labels.csv")
    assert (labels(items), refused) == ({"a.jpg": (None, "awe", "awe")}, [])


def test_a_quote_between_tabs_is_a_letter(tmp_path: Path) -> None:
    write(tmp_path, {"labels.tsv": 'image\temotion\na"1.jpg\tawe\n', 'a"1.jpg': 1})
    items, refused, _ = read("labelled", tmp_path / "labels.tsv")
    assert (list(items), refused) == (['a"1.jpg'], [])


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": 1, "labels.csv": "image,emotion\na.jpg,awe\na.jpg,fear\n"})
    found = list(open_source("labelled").read(tmp_path / "labels.csv"))
    assert len(found) == 2
    assert all("contradiction" in str(one) for one in found)


def test_rows_that_spell_the_same_file_in_other_ways_agree(tmp_path: Path) -> None:
    write(tmp_path, {"c.jpg": 1, "sub/d.jpg": 2, "\u00fc.jpg": 3})
    names = ["./c.jpg", "c.jpg", "sub\\d.jpg", "sub/d.jpg", "\u00fc.jpg", "u\u0308.jpg"]
    write(tmp_path, {"labels.csv": "image,emotion\n" + "".join(f"{name},awe\n" for name in names)})
    items, refused, repeated = read("labelled", tmp_path / "labels.csv")
    assert (list(items), refused, len(repeated)) == (["c.jpg", "sub/d.jpg", "\u00fc.jpg"], [], 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "words.yaml: no words; expected a mapping"),
        ({"joy": "happiness"}, r"words.yaml: joy: unknown emotion 'happiness'; allowed: amusement, .*, or null"),
        ({"joy": 3}, "words.yaml: joy: found 3; expected one of amusement"),
        ({"Joy": "awe", "joy ": "awe"}, "words.yaml: 'joy' stands there twice"),
        ({True: "awe"}, "words.yaml: found the word 'True'; expected text or a whole number"),
    ],
)
def test_a_wrong_map_is_refused(given: dict[object, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        label_map(given, "words.yaml")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "mine", {"0/a.jpg": 1, "1/b.jpg": 2, "2/c.jpg": 3})
    words = tmp_path / "words.yaml"
    words.write_text("0: awe\n1: null\n", encoding="utf-8")
    assert read_label_map(words) == {"0": Emotion.AWE, "1": None}
    command = ["prep", "import", "labelled", str(tmp_path / "mine"), "--into", str(tmp_path / "store"), "--name", "mine"]
    assert main([*command, "--labels", str(words)]) == 0
    said_there = capsys.readouterr()
    assert "mapped to one of the eight 1, without a label 1" in said_there.out
    assert "unknown label '2'; allowed: 0, 1" in said_there.err
    assert (
        main(["prep", "import", "folder", str(tmp_path / "mine"), "--into", str(tmp_path / "b"), "--labels", str(words)]) == 2
    )
    assert "--labels" in capsys.readouterr().err
