"""EmoSet, Flickr30k, FI, Emotion6 and FindingEmo in the layouts that are on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources import PUBLISHED, SourceError, open_source
from tests.data_prep.sources.trees import read, said, write


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_without_the_source_is_one_error_that_says_what_was_looked_for(name: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        list(open_source(name).read(tmp_path / "none"))
    with pytest.raises(SourceError, match="missing; looked for"):
        list(open_source(name).read(tmp_path))
    with pytest.raises(SourceError, match="keeps its name"):
        open_source(name, source_name="mine")


def emoset(root: Path) -> Path:
    def row(emotion: str, number: int, *, four: bool) -> list[str]:
        stem = f"{emotion}_{number:05d}"
        return [emotion, *([stem] if four else []), f"image/{emotion}/{stem}.jpg", f"annotation/{emotion}/{stem}.json"]

    files: dict[str, Any] = {
        "info.json": {"emotion": {"label2idx": {"amusement": 0}}},
        "train.json": [row("amusement", 1, four=True), row("fear", 2, four=False), row("fear", 2, four=False)],
        "val.json": [row("awe", 3, four=True)],
        "test.json": [row("sadness", 4, four=False)],
        "annotation/amusement/amusement_00001.json": {
            **{"image_id": "amusement_00001", "emotion": "amusement", "brightness": 0.5, "colorfulness": 0.3, "scene": "park"},
            **{"object": ["Dog", "Tree"], "facial_expression": None},
        },
        "annotation/fear/fear_00002.json": {"emotion": "fear"},
        "annotation/awe/awe_00003.json": {"emotion": "awe", "human_action": "hiking"},
        "annotation/sadness/sadness_00004.json": {"emotion": "sadness"},
    }
    for split in ("train", "val", "test"):
        for cells in files[f"{split}.json"]:
            files[cells[-2]] = int(cells[-2][-9:-4])
    return write(root, files)


def test_emoset(tmp_path: Path) -> None:
    items, refused, repeated = read("emoset", emoset(tmp_path))
    assert refused == []
    assert said(repeated, tmp_path) == ["train.json[2]:1: listed before: image/fear/fear_00002.jpg"]
    assert {key.split("/")[1]: (item.split, item.labels["emotion"]) for key, item in items.items()} == {
        **{"amusement": ("train", "amusement"), "fear": ("train", "fear")},
        **{"awe": ("val", "awe"), "sadness": ("test", "sadness")},
    }
    assert items["image/amusement/amusement_00001.jpg"].labels == {
        "emotion": "amusement",
        "emotion_raw": "amusement",
        "attributes": {"brightness": 0.5, "colorfulness": 0.3, "scene": "park", "object": ["Dog", "Tree"]},
    }
    assert "attributes" not in items["image/fear/fear_00002.jpg"].labels
    assert {item.licence for item in items.values()} == {None}
    assert {item.licence for item in open_source("emoset", licence="X").read(tmp_path) if hasattr(item, "licence")} == {"X"}


def test_emoset_refuses_row_by_row(tmp_path: Path) -> None:
    emoset(tmp_path)
    (tmp_path / "val.json").unlink()
    good = ["awe", "image/awe/awe_00003.jpg", "annotation/awe/awe_00003.json"]
    rows = [
        ["joy", *good[1:]],
        ["awe", "../awe.jpg", good[2]],
        ["awe", good[1], "annotation/awe/none.json"],
        ["fear", *good[1:]],
        ["awe", "image/awe/none.jpg", good[2]],
        ["awe", good[1]],
        "awe",
        good,
        ["awe", "image/fear/fear_00002.jpg", good[2]],
    ]
    (tmp_path / "test.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    items, refused, _ = read("emoset", tmp_path)
    assert set(items) == {"image/amusement/amusement_00001.jpg", good[1]}, (
        "what two rows contradict each other about is nobody's"
    )
    assert [str(refusal).rsplit("/", 1)[1] for refusal in refused if "contradiction: another" in refusal.reason] == [
        "fear_00002.jpg",
        "fear_00002.jpg",
        "fear_00002.jpg",
    ]
    refused = [refusal for refusal in refused if "train.json[" not in refusal.file]
    messages = said(refused, tmp_path)
    assert messages[0] == "val.json: no such file: the split is missing"
    assert messages[1].startswith("test.json[0]:2: unknown emotion 'joy'; allowed: amusement, awe, contentment")
    assert [text.split(": ")[0] for text in messages[1:]] == [f"test.json[{i}]:{i + 2}" for i in (0, 1, 2, 3, 4, 5, 6, 8)]
    kinds = [text.split(": ")[1] for text in messages[2:]]
    refusals = ["path with '..'", "no such file", "contradiction", "no such file", "bad row", "bad row"]
    assert kinds == [*refusals, "contradiction"]


CAPTIONS = {"1.jpg": ["A dog , running .", "Dog."], "2.jpg": ["Two men on a roof."], "3.jpg": ["A lake"]}
SPLITS = {"1.jpg": "train", "2.jpg": "val", "3.jpg": "test"}
FLICKR = {
    "results_20130124.token": "1.jpg#1\tDog.\n2.jpg#0\tTwo men on a roof.\n1.jpg#0\tA dog , running .\n\n3.jpg#0\tA lake \n",
    "dataset_flickr30k.json": {
        "dataset": "flickr30k",
        "images": [
            {"filename": f, "imgid": i, "split": SPLITS[f], "sentences": [{"raw": c, "tokens": []} for c in captions]}
            for i, (f, captions) in enumerate(CAPTIONS.items())
        ],
    },
    "flickr_annotations_30k.csv": "raw,sentids,split,filename,img_id\n"
    + "".join('"{}","[0]",{},{},0\n'.format(json.dumps(c).replace('"', '""'), SPLITS[f], f) for f, c in CAPTIONS.items()),
}


@pytest.mark.parametrize("folder", ["flickr30k_images", "flickr30k-images"])
@pytest.mark.parametrize("index", FLICKR)
def test_flickr30k_is_the_same_in_every_layout(index: str, folder: str, tmp_path: Path) -> None:
    write(tmp_path, {index: FLICKR[index], **{f"{folder}/{name}": i for i, name in enumerate(CAPTIONS)}})
    items, refused, repeated = read("flickr30k", tmp_path)
    assert (refused, repeated) == ([], [])
    assert {key: item.labels for key, item in items.items()} == {key: {"captions": c} for key, c in CAPTIONS.items()}
    assert {key: item.split for key, item in items.items()} == dict.fromkeys(CAPTIONS) if "token" in index else SPLITS
    assert {item.group for item in items.values()} == {"flickr30k:1.jpg", "flickr30k:2.jpg", "flickr30k:3.jpg"}


def test_flickr30k_refusals(tmp_path: Path) -> None:
    write(tmp_path, {"results_20130124.token": "1.jpg\tno number\n1.jpg#0 no tab\n2.jpg#0\tgone\n", "images/1.jpg": 1})
    items, refused, _ = read("flickr30k", tmp_path)
    assert items == {}
    assert [text.split(":")[1] for text in said(refused, tmp_path)] == ["1", "2", "3"]
    write(tmp_path, {"flickr_annotations_30k.csv": "raw,split,filename\nno list,train,1.jpg\n[],a b,1.jpg\n"})
    _, refused, _ = read("flickr30k", tmp_path)
    assert [text.split(": ")[1] for text in said(refused, tmp_path)] == ["bad captions", "bad split"]


@pytest.mark.parametrize("prefix", ["", "emotion_dataset/", "images/"])
def test_fi_as_folders(prefix: str, tmp_path: Path) -> None:
    write(tmp_path, {f"{prefix}awe/1.jpg": 1, f"{prefix}Anger/2.png": 2, f"{prefix}joy/3.jpg": 3, "notes.txt": "x"})
    items, refused, _ = read("fi", tmp_path)
    assert {key: item.labels["emotion"] for key, item in items.items()} == {"awe/1.jpg": "awe", "anger/2.png": "anger"}
    # In the root a folder may be anything; in the folder of images it can only be a label.
    assert [text.split("'")[0] for text in said(refused, tmp_path)] == (
        ["images/joy: unknown emotion "] if prefix == "images/" else ["emotion_dataset/joy: unknown emotion "] if prefix else []
    )


def test_fi_with_votes(tmp_path: Path) -> None:
    rows = [
        "awe,http://x.test/p/1.jpg,1,4",
        "fear,http://x.test/p/2%20b.jpg?size=3,0,5",
        "anger,http://x.test/3.jpg,3,2",
        "joy,http://x.test/1.jpg,0,5",
        "awe,http://x.test/gone.jpg,0,5",
        "awe,http://x.test/p/1.jpg,1,4",
        "awe,http://x.test/1.jpg,-1,4",
        "awe,http://x.test/,1,4",
    ]
    write(tmp_path, {"emotion_dataset/awe/1.jpg": 1, "emotion_dataset/2 b.jpg": 2, "emotion_dataset/anger/3.jpg": 3})
    write(tmp_path, {"emotion_dataset/sadness/9.jpg": 9, "votes.csv": "\n".join(rows)})
    items, refused, repeated = read("fi", tmp_path)
    assert list(items) == ["awe/1.jpg", "fear/2 b.jpg", "anger/3.jpg", "sadness/9.jpg"]
    labels: dict[str, dict[str, Any]] = {key: item.labels for key, item in items.items()}
    assert labels["awe/1.jpg"]["emotion_scores"]["awe"] == pytest.approx(0.8)
    assert sum(labels["awe/1.jpg"]["emotion_scores"].values()) == pytest.approx(1, abs=1e-5)
    assert labels["fear/2 b.jpg"]["emotion_scores"]["fear"] == 1
    assert labels["anger/3.jpg"] == {"emotion_raw": "anger", "votes": 5, "attributes": {"agree": 2, "disagree": 3}}
    assert labels["sadness/9.jpg"] == {"emotion": "sadness", "emotion_raw": "sadness"}
    assert items["awe/1.jpg"].origin == "http://x.test/p/1.jpg"
    assert [text[:24].rstrip() for text in said(refused, tmp_path)] == [
        *("votes.csv:4: unknown emo", "votes.csv:5: no such fil", "votes.csv:7: disagree is", "votes.csv:8: no path: ''"),
    ]
    assert said(repeated, tmp_path) == ["votes.csv:6: listed before: awe/1.jpg"]


HEADER = (
    "[image_filename]\t[valence]\t[arousal]\t[prob. anger]\t[prob. disgust]\t[prob. fear]\t[prob. joy]\t[prob. sadness]\t"
    "[prob. surprise]\t[prob. neutral]\n"
)


def test_emotion6(tmp_path: Path) -> None:
    rows = {
        "disgust/1.jpg": (2.5, 3.8, 0.133333, 0.7, 0, 0.0666667, 0.1, 0, 0),
        "joy/1.jpg": (7, 5, 0, 0, 0, 0.5, 0, 0.1, 0.4),
        "fear/2.jpg": (3, 6, 0, 0, 0.3, 0, 0.1, 0, 0.6),
        "fear/3.jpg": (3, 6, 0.4, 0, 0.4, 0, 0.2, 0, 0),
        "fear/4.jpg": (5, 4, 0, 0, 0, 0, 0, 0, 1),
        "bad/range.jpg": (0.5, 4, 0, 0, 0, 0, 0, 0, 1),
        "bad/sum.jpg": (5, 4, 0, 0.5, 0, 0, 0, 0, 0),
        "bad/nan.jpg": (5, 4, "nan", 0.5, 0, 0, 0, 0, 0.5),
        "bad/gone.jpg": (5, 4, 0, 0, 0, 0, 0, 0, 1),
    }
    table = HEADER + "".join(f"{name}\t" + "\t".join(map(str, values)) + "\r\n" for name, values in rows.items())
    write(tmp_path, {"ground_truth.txt": table, **{f"images/{n}": i for i, n in enumerate(rows) if n != "bad/gone.jpg"}})
    items, refused, _ = read("emotion6", tmp_path)
    told = {key: (item.labels.get("emotion_raw"), item.labels.get("emotion")) for key, item in items.items()}
    assert told == {
        "disgust/1.jpg": ("disgust", "disgust"),
        "joy/1.jpg": ("joy", None),
        # Most voted neutral: the class is the most voted of the six.
        "fear/2.jpg": ("fear", "fear"),
        "fear/3.jpg": (None, None),
        "fear/4.jpg": (None, None),
    }
    assert all("emotion_scores" not in item.labels for item in items.values())
    first: dict[str, Any] = items["disgust/1.jpg"].labels
    assert (first["valence"], first["arousal"], first["attributes"]) == (2.5, 3.8, {"keyword": "disgust"})
    assert first["emotion_scores_raw"]["disgust"] == pytest.approx(0.7)
    assert [text.split(": ")[1] for text in said(refused, tmp_path)] == [
        *("valence is out of range", "bad votes", "prob. anger is out of range", "no such file"),
    ]


FINDINGEMO = "index,user,image_path,tags,age,valence,arousal,emotion,dec_factors,ambiguity,datetime\n"


@pytest.mark.parametrize(("data", "images"), [("data/", "images/"), ("", ""), ("data/", "data/images/")])
def test_findingemo(data: str, images: str, tmp_path: Path) -> None:
    rows = [
        '0,u1,/Run_2/Angry office/a b.jpg,"[""x"", ""y""]",Adults,-2,5,Rage,Conflict,3,2023-01-01',
        "1,u1,/Run_1/Park/c.jpg,[],Children,3,1,Serenity,,0,2023-01-01",
        "2,u1,/Run_1/Park/c.jpg,[],Children,3,1,Sleepy,,0,2023-01-01",
        "3,u1,/../c.jpg,[],Children,3,1,Joy,,0,2023-01-01",
        "4,u1,/Run_1/Park/c.jpg,[],Children,4,1,Joy,,0,2023-01-01",
        "5,u1,/Run_1/Park/dead.jpg,[],Children,2,1,Joy,,0,2023-01-01",
        "6,u2,/Run_1/Park/two.jpg,[],Children,1,1,Joy,,0,2023-01-01",
        "7,u2,/Run_1/Park/two.jpg,[],Children,1,1,Grief,,0,2023-01-01",
    ]
    addresses = [
        {"rel_path": "/Run_1/Park/c.jpg", "idx_url": 1, "url": "http://x.test/second"},
        {"rel_path": "/Run_1/Park/c.jpg", "idx_url": 0, "url": "http://x.test/first"},
        {"rel_path": "/Run_1/Park/c.jpg", "idx_url": 2, "url": "http://x.test/third"},
    ]
    write(
        tmp_path,
        {f"{data}annotations_single.ann": FINDINGEMO + "\n".join(rows), f"{data}dataset_urls_exploded.json": addresses},
    )
    write(
        tmp_path, {f"{images}Run_2/Angry office/a b.jpg": 1, f"{images}Run_1/Park/c.jpg": 2, f"{images}Run_1/Park/two.jpg": 3}
    )
    items, refused, _ = read("findingemo", tmp_path)
    assert {key: (item.labels["emotion_raw"], item.labels["intensity_level"], item.origin) for key, item in items.items()} == {
        "Run_2/Angry office/a b.jpg": ("rage", "high", "Run_2/Angry office/a b.jpg"),
        "Run_1/Park/c.jpg": ("serenity", "low", "http://x.test/first"),
    }
    assert all("emotion" not in item.labels for item in items.values())
    labels: dict[str, Any] = items["Run_2/Angry office/a b.jpg"].labels
    assert labels["attributes"]["family"] == "anger"
    assert [text.split(": ")[1] for text in said(refused, tmp_path)] == [
        *("unknown emotion 'Sleepy'; allowed", "path with '..'", "valence is out of range", "no such file"),
        *("contradiction", "contradiction"),
    ]


def test_a_file_name_at_two_addresses_is_named_and_no_repeat(tmp_path: Path) -> None:
    """FI: the folder holds one file of that name, of one of both; the same address by another scheme is the same."""
    addresses = ("http://x.test/a.jpg", "https://X.test/a.jpg", "http://y.test/a.jpg", "http://x.test/b/a.jpg")
    rows = [f"awe,{address},1,4" for address in addresses]
    write(tmp_path, {"awe/a.jpg": 1, "votes.csv": "\n".join(rows)})
    items, refused, repeated = read("fi", tmp_path)
    assert [(item.key, item.origin) for item in items.values()] == [("awe/a.jpg", addresses[0])]
    assert said(repeated, tmp_path) == ["votes.csv:2: listed before: awe/a.jpg"]
    assert [(one.line, "x.test/a.jpg" in one.reason and "one file of that name" in one.reason) for one in refused] == [
        (3, True),
        (4, True),
    ]
    rows[2] = "awe,http://y.test/a.jpg,2,3"
    write(tmp_path, {"votes.csv": "\n".join(rows)})
    assert read("fi", tmp_path)[0] == {}, "two that say different things contradict one another, as before"
