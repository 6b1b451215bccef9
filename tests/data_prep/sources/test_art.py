"""EmoArt, ArtEmis and EmoVerse in the layouts that are on disk."""

from __future__ import annotations

import io
import tarfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.sources import SourceError, open_source
from data_prep.sources.images import MAX_BYTES
from tests.data_prep.conftest import picture
from tests.data_prep.sources.trees import read, said, write


def emoart_row(image: str, emotion: str | None, **changes: object) -> dict[str, Any]:
    third: dict[str, object] = {
        "emotional_arousal_level": "Low",
        "emotional_valence": "Positive",
        "healing_effects": ["rest"],
        **changes,
    }
    if emotion is not None:
        third["dominant_emotion"] = emotion
    return {
        "request_id": f"request-{image}",
        "image_path": image,
        "description": {
            "first_section": {"description": "A quiet harbour."},
            "second_section": {"visual_attributes": {"color": "blue"}, "emotional_impact": "calming"},
            "third_section": third,
        },
    }


ROWS = [
    emoart_row("Images\\Cubism\\a.jpg", "Calm"),
    emoart_row("Images/Cubism/b.jpg", "contentment"),
    emoart_row("Images/Fauvism/c.jpg", "Happy"),
    emoart_row("Images/Fauvism/d.jpg", "alarmed"),
    emoart_row("Images/Fauvism/e.jpg", None),
    emoart_row("Images/Fauvism/f.jpg", "amazed"),
    emoart_row("Images/Fauvism/g.jpg", "sad"),
    emoart_row("Images/Cubism/a.jpg", "calm"),
    emoart_row("Images/Cubism/b.jpg", "sad"),
    emoart_row("h.jpg", "sad"),
    emoart_row("Images/Fauvism/i.jpg", "sad", emotional_valence="Mixed"),
]
LABELS = {"a": "contentment", "c": None, "d": "fear", "e": None}


def archive(path: Path, members: Mapping[str, bytes | tarfile.TarInfo]) -> None:
    with tarfile.open(path, "w:gz") as out:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                out.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                out.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("shape", ["list", "dict"])
@pytest.mark.parametrize("layout", ["folder", "archives", "one archive", "both"])
def test_emoart(shape: str, layout: str, tmp_path: Path) -> None:
    write(tmp_path, {"Annotation.json": ROWS if shape == "list" else {str(i): row for i, row in enumerate(ROWS)}})
    seeds = {
        "Cubism/a.jpg": 1,
        "Cubism/b.jpg": 2,
        "Fauvism/c.jpg": 3,
        "Fauvism/d.jpg": 4,
        "Fauvism/e.jpg": 5,
        "Fauvism/f.jpg": 6,
    }
    images = {name: picture(seed, kind="JPEG") for name, seed in seeds.items()}
    on_disk = {n: data for n, data in images.items() if layout == "folder" or (layout == "both" and n.startswith("Cubism"))}
    write(tmp_path, {f"Images/{name}": data for name, data in on_disk.items()})
    if layout in ("archives", "both"):
        archive(tmp_path / "Cubism.tar.gz", {f"./Images/{n}": d for n, d in images.items() if n.startswith("Cubism")})
        archive(
            tmp_path / "Fauvism.tar.gz", {n.removeprefix("Fauvism/"): d for n, d in images.items() if n.startswith("Fauvism")}
        )
    elif layout == "one archive":
        archive(tmp_path / "Classics.tar.gz", images)
    items, refused, repeated = read("emoart", tmp_path)
    assert {Path(key).stem: item.labels.get("emotion") for key, item in items.items()} == LABELS
    assert all(item.image == images[key.removeprefix("Images/")] for key, item in items.items())
    first: dict[str, Any] = items["Images/Cubism/a.jpg"].labels
    assert (first["emotion_raw"], first["arousal_level"], first["valence_level"]) == ("calm", "low", "positive")
    assert first["description"] == "A quiet harbour."
    assert first["attributes"]["visual_attributes"] == {"color": "blue"}
    assert [str(r).split(": ")[1:] for r in repeated] == [["listed before", "Images/Cubism/a.jpg"]], (
        "another request, same label"
    )
    reasons = sorted(text.split(": ")[1] for text in said(refused, tmp_path))
    # Two rows say different things of b: neither is believed.
    listed = ["contradiction", "contradiction"]
    # The archived picture of a refused row, and in the mixed tree those on disk, have nobody who asks for them.
    unnamed = {"folder": 0, "archives": 1, "one archive": 1, "both": 3}[layout]
    gone = "no such file" if layout == "folder" else "no such image"
    assert reasons == sorted(
        [*listed, gone, "no style", "unknown emotion 'amazed'; allowed", "unknown emotional_valence 'Mixed'; allowed"]
        + ["no annotation"] * unnamed
    )


def test_emoart_archives_are_refused_member_by_member(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    write(tmp_path, {"Annotation.json": [emoart_row(f"Images/Cubism/{n}.jpg", "sad") for n in names]})
    link = tarfile.TarInfo("Cubism/a.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members: dict[str, bytes | tarfile.TarInfo] = {
        "link": link,
        "../Cubism/b.jpg": picture(1),
        "Cubism/c.jpg": b"no image",
        "Cubism/big.jpg": b"",
        "Cubism/readme.txt": b"x",
    }
    archive(tmp_path / "Cubism.tar.gz", members)
    (tmp_path / "Torn.tar.gz").write_bytes((tmp_path / "Cubism.tar.gz").read_bytes()[:150])
    (tmp_path / "Zero.tar.gz").write_bytes(b"")
    items, refused, _ = read("emoart", tmp_path)
    assert items == {}
    messages = said(refused, tmp_path)
    assert [text.split(": ")[1] for text in messages if text.startswith("Cubism.tar.gz/")] == [
        *("not a regular file", "path with '..'", "no annotation"),
    ]
    assert any(text.startswith("Cubism.tar.gz: not an image") or "not an image" in text for text in messages)
    assert any(text.startswith("Torn.tar.gz: broken archive") for text in messages)
    assert any(text.startswith("Zero.tar.gz: broken archive") for text in messages)
    assert [text.split(": ")[2].split()[0] for text in messages if "no such image" in text] == [
        *("Images/Cubism/a.jpg", "Images/Cubism/b.jpg", "Images/Cubism/d.jpg"),
    ]


def test_an_oversized_member_is_refused_unread(tmp_path: Path) -> None:
    write(tmp_path, {"Annotation.json": [emoart_row("Images/Cubism/a.jpg", "sad")]})
    head = tarfile.TarInfo("Cubism/a.jpg")
    head.size = MAX_BYTES + 1
    # The header alone: whoever tries to read what it promises meets the end of the file.
    (tmp_path / "Cubism.tar").write_bytes(head.tobuf() + bytes(10240))
    _, refused, _ = read("emoart", tmp_path)
    assert "too large" in said(refused, tmp_path)[0]


CAFE = unicodedata.normalize("NFD", "jean_café-1890")


def test_artemis(tmp_path: Path) -> None:
    votes = {
        ("Cubism", "x_one"): ["awe", "awe", "fear", "something else", "Awe"],
        ("Cubism", "x_tie"): ["awe", "fear"],
        ("Fauvism", "x_one"): ["sadness"],
        ("Fauvism", "x_else"): ["something else", "something else", "awe"],
        ("Fauvism", "x_half"): ["something else", "something else", "awe", "fear", "anger"],
        ("Fauvism", unicodedata.normalize("NFC", CAFE)): ["anger"],
        ("Fauvism", "x_gone"): ["anger"],
    }
    rows = [(style, name, word) for (style, name), words in votes.items() for word in words]
    # An artwork's votes need not stand together.
    rows = rows[::2] + rows[1::2] + [("Cubism", "x_one", "joy"), ("Cubism", "", "awe")]
    lines = [f'{style},{name},{word},"he said ""{word}"",\nso",5' for style, name, word in rows]
    write(tmp_path, {"artemis_dataset_release_v0.csv": "art_style,painting,emotion,utterance,repetition\n" + "\n".join(lines)})
    write(
        tmp_path,
        {f"wikiart/{style}/{name}.jpg": i for i, (style, name) in enumerate(votes) if "gone" not in name and "é" not in name},
    )
    write(tmp_path, {f"wikiart/Fauvism/{CAFE}.jpg": 77})
    items, refused, _ = read("artemis", tmp_path)
    labels: dict[str, dict[str, Any]] = {key: item.labels for key, item in items.items()}
    assert set(labels) == {
        *("Cubism/x_one", "Cubism/x_tie", "Fauvism/x_one", "Fauvism/x_else", "Fauvism/x_half"),
        "Fauvism/" + unicodedata.normalize("NFC", CAFE),
    }
    one = labels["Cubism/x_one"]
    assert (one["emotion"], one["votes"]) == ("awe", 5)
    assert one["emotion_scores"] == {
        **dict.fromkeys(("amusement", "contentment", "excitement", "anger", "disgust", "sadness"), 0.0),
        "awe": 0.75,
        "fear": 0.25,
    }
    assert one["emotion_scores_raw"] == {"awe": 0.6, "fear": 0.2, "something else": 0.2}
    assert len(one["captions"]) == 5
    assert 'he said "fear",\nso' in one["captions"]
    assert "emotion" not in labels["Cubism/x_tie"]
    assert labels["Cubism/x_tie"]["emotion_scores"]["awe"] == 0.5
    assert (labels["Fauvism/x_else"]["emotion_raw"], "emotion" in labels["Fauvism/x_else"]) == ("something else", False)
    assert "emotion_scores" not in labels["Fauvism/x_else"]
    assert "emotion" not in labels["Fauvism/x_half"]
    assert labels["Fauvism/x_half"]["emotion_scores"]["anger"] == pytest.approx(1 / 3, abs=1e-6)
    assert items["Cubism/x_one"].group == items["Fauvism/x_one"].group == "artemis:x_one"
    assert {item.split for item in items.values()} == {None}
    assert [text.split(": ")[1] for text in said(refused, tmp_path)] == [
        *("unknown emotion 'joy'; allowed", "key 'painting' is ''", "no such file"),
    ]


def test_artemis_follows_a_column_of_splits(tmp_path: Path) -> None:
    table = "art_style,painting,emotion,utterance,split\nA,p,awe,u,train\nA,q,awe,u,test\nA,r,awe,u,val\nA,r,awe,u,test\n"
    write(tmp_path, {"mine.csv": table, "A/p.jpg": 1, "A/q.jpg": 2, "A/r.jpg": 3})
    items, refused, _ = read("artemis", tmp_path)
    assert {key: item.split for key, item in items.items()} == {"A/p": "train", "A/q": "test"}
    assert "several splits" in str(refused[0])


DES = [0.5] * 1024


def record(number: int, emotion: str = "Amusement", **changes: object) -> dict[str, Any]:
    name = f"{emotion}{number:06d}"
    return {
        "id": name,
        "image_path": f"images/{emotion.lower()}/{name}.jpg",
        "description": "People laugh.",
        "emotion": emotion,
        "confidence": 8,
        "background": "snow plain",
        "attribute": "excited",
        "subject": "person",
        "B-A-S": "snow plain-excited-person",
        "DES": DES,
        "bbox": [{"x1": 1, "y1": 2, "x2": 30, "y2": 31}],
        "mask_path": None,
        **changes,
    }


def test_emoverse_records(tmp_path: Path) -> None:
    older = record(2, "Fear")
    for new, old in {"description": "analysis", "attribute": "adjective", "subject": "noun", "confidence": "intensity"}.items():
        older[old] = older.pop(new)
    bad: list[dict[str, Any]] = [
        record(3, bbox=[{"x1": 1, "y1": 2, "x2": 300, "y2": 31}]),
        record(4, bbox=[{"x1": 9, "y1": 2, "x2": 3, "y2": 31}]),
        record(5, DES=[0.5] * 12),
        record(6, DES=[float("nan"), *DES[1:]]),
        record(7, "Joy"),
        record(8, image_path="/etc/passwd"),
    ]
    rows = [record(1), older, *bad]
    write(tmp_path, {"train.json": rows, "test.json": [record(9, mask_path="masks/9.png", DES=None, bbox=[])]})
    write(tmp_path, {row["image_path"]: i for i, row in enumerate([*rows, record(9)]) if not row["image_path"].startswith("/")})
    items, refused, _ = read("emoverse", tmp_path)
    assert {key: item.split for key, item in items.items()} == {
        "Amusement000009": "test",
        "Amusement000001": "train",
        "Fear000002": "train",
    }
    labels: dict[str, Any] = items["Fear000002"].labels
    told = [labels[key] for key in ("emotion", "description", "background", "attribute", "subject", "confidence_raw")]
    assert told == ["fear", "People laugh.", "snow plain", "excited", "person", 8]
    assert labels["des"] == DES
    region = items["Amusement000001"].regions[0]
    assert (region.phrase, region.bbox, region.primary) == ("excited person", (1, 2, 30, 31), True)
    assert items["Amusement000009"].labels["attributes"] == {"mask_path": "masks/9.png"}
    kinds = [text.split(": ")[1] for text in said(refused, tmp_path)]
    assert kinds == ["bad box", "bad box", "bad DES", "bad DES", "unknown emotion 'Joy'; allowed", "absolute path"]
    one, _, _ = read("emoverse", tmp_path / "test.json")
    assert set(one) == {"Amusement000009"}


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {"confidence_score": pyarrow.int32(), "DES_representation": pyarrow.list_(pyarrow.float32())}
    types["bounding_box"] = pyarrow.list_(pyarrow.int32())
    columns = {key: pyarrow.array([row.get(key) for row in rows], types.get(key)) for key in rows[0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=2)


def row(seed: int, **changes: object) -> dict[str, Any]:
    return {
        "image": {"bytes": picture(seed), "path": None},
        "description": "People laugh.",
        "emotion_category": "Amusement",
        "confidence_score": 8,
        "background": "snow plain",
        "attribute": "excited",
        "subject": "person",
        "DES_representation": DES,
        "bounding_box": [1, 2, 30, 31, 4, 4, 9, 9],
        "source": "EmoSet",
        **changes,
    }


def test_emoverse_parquet(tmp_path: Path) -> None:
    parquet(tmp_path / "data/train-00000-of-00002.parquet", [row(1), row(2, emotion_category="Awe"), row(1)])
    parquet(
        tmp_path / "data/train-00001-of-00002.parquet",
        [row(3, bounding_box=[1, 2, 3]), row(4, image={"bytes": None, "path": "x"})],
    )
    parquet(tmp_path / "data/test-00000-of-00001.parquet", [row(5, bounding_box=None, DES_representation=None)])
    items, refused, repeated = read("emoverse", tmp_path)
    assert sorted((item.split, item.labels["emotion"], len(item.regions)) for item in items.values()) == [
        ("test", "amusement", 0),
        ("train", "amusement", 2),
        ("train", "awe", 2),
    ]
    assert {item.image for item in items.values()} == {picture(1), picture(2), picture(5)}
    assert next(iter(items.values())).labels["attributes"] == {"source": "EmoSet"}
    assert [text.split(": ")[0] for text in said(refused, tmp_path)] == [
        f"data/train-00001-of-00002.parquet[{i}]" for i in (0, 1)
    ]
    assert len(repeated) == 1
    assert read("emoverse", tmp_path / "data")[0] == items


def test_emoverse_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-0.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SourceError, match=r"train-0\.parquet: not a parquet file"):
        list(open_source("emoverse").read(tmp_path))
    parquet(tmp_path / "data/train-0.parquet", [{"image": {"bytes": b"", "path": None}, "label": "x"}])
    with pytest.raises(SourceError, match="column emotion_category is missing; found: image, label"):
        list(open_source("emoverse").read(tmp_path))
    write(tmp_path, {"train.json": [record(1)]})
    with pytest.raises(SourceError, match="two copies of the same"):
        list(open_source("emoverse").read(tmp_path))
