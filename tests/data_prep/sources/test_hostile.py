"""Small files that claim much, and files that were changed at random: refused by name, within memory, and nothing else is raised."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import tarfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from data_prep.sources import SourceError, SourceRefusal, open_source, places
from data_prep.sources.addresses import read_list
from data_prep.sources.archives import Archive, BrokenArchiveError
from data_prep.sources.index_files import json_records, table_rows
from data_prep.sources.labels import EKMAN
from emo_lightning.core.parquet import parquet_rows
from tests.data_prep.conftest import picture
from tests.data_prep.sources.trees import write

MIB = 2**20
REQUIRED = ("image", "emotion_category")


def many_rows(path: Path) -> None:
    nothing = pyarrow.nulls(2_000_000)
    pyarrow.parquet.write_table(
        pyarrow.table({"image": nothing.cast(pyarrow.binary()), "emotion_category": nothing.cast(pyarrow.string())}), path
    )


def large_value(path: Path) -> None:
    image = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 64, pyarrow.int32()), pyarrow.array([bytes(40 * MIB)]))
    pyarrow.parquet.write_table(pyarrow.table({"image": image, "emotion_category": ["awe"] * 64}), path, compression="zstd")


def long_list(path: Path) -> None:
    boxes = pyarrow.array([[0] * 12_000_000], pyarrow.list_(pyarrow.int64()))
    table = pyarrow.table({"image": [b"x"], "emotion_category": ["awe"], "bounding_box": boxes})
    pyarrow.parquet.write_table(table, path, compression="zstd")


@pytest.mark.parametrize("make", [many_rows, large_value, long_list])
def test_a_table_of_a_few_bytes_costs_no_gigabytes(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    make(path)
    assert path.stat().st_size < MIB
    with pytest.raises(SourceError, match=r"its own size does not explain|more memory than its size|rows in"):
        list(parquet_rows(path, SourceError, required=REQUIRED))


def test_a_table_that_was_changed_at_random_is_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [picture(1)] * 3, "emotion_category": ["awe"] * 3}), path)
    whole, draw = path.read_bytes(), random.Random(10)
    for _ in range(4):
        data = bytearray(whole)
        for _ in range(8):
            data[draw.randrange(len(data) - 300, len(data))] = draw.randrange(256)
        path.write_bytes(data)
        with contextlib.suppress(SourceError):
            list(parquet_rows(path, SourceError, required=REQUIRED))


def header(kind: bytes, size: int, name: str = "a.jpg") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: header(tarfile.REGTYPE, 3 * 2**30) + bytes(40 * MIB), "more than"),
        (lambda: header(tarfile.XHDTYPE, 32 * MIB) + bytes(32 * MIB), "a header of type b'x'"),
        (lambda: header(tarfile.GNUTYPE_LONGNAME, 32 * MIB) + bytes(32 * MIB), "a header of type b'L'"),
        (lambda: header(tarfile.GNUTYPE_SPARSE, 512) + bytes(1024), "a header of type b'S'"),
        (lambda: header(tarfile.REGTYPE, 0) * 20_000, "more members"),
        (lambda: (header(tarfile.XHDTYPE, 512) + b"9 path=a\n".ljust(512, b"\0")) * 2000, "."),
    ],
)
def test_an_archive_of_a_few_bytes_costs_no_gigabytes(content: Callable[[], bytes], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(content()))
    assert path.stat().st_size < MIB
    tracemalloc.start()
    try:
        with pytest.raises(BrokenArchiveError, match=message):
            for _ in Archive(path).members():
                pass
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


def changed(whole: bytes, draw: random.Random, times: int) -> Iterator[bytes]:
    pieces = [
        b"[" * 200,
        b"{",
        b'"',
        b"\\",
        b"\0",
        b"\xff",
        b"9" * 400,
        b"1e999",
        b"\\ud800",
        b"true",
        b"null",
        b"-",
        b"\n",
        b",",
        b"\t",
    ]
    for _ in range(times):
        data = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(data))
            data[at : at + draw.choice((0, 1, 8))] = draw.choice(pieces)
        yield bytes(data)


def test_indexes_that_were_changed_at_random_are_read_or_refused(tmp_path: Path) -> None:
    draw = random.Random(10)
    record = {
        "id": "a",
        "image_path": "a.jpg",
        "emotion": "awe",
        "bbox": [{"x1": 0, "y1": 0, "x2": 9, "y2": 9}],
        "confidence": 3,
    }
    section = {f"{n}_section": {"description": "x", "dominant_emotion": "sad"} for n in ("first", "second", "third")}
    emoart = {"image_path": "Images/A/a.jpg", "description": section}
    indexes = {
        "emoverse": ("x.json", json.dumps([record, {**record, "id": "b"}])),
        "emoart": ("Annotation.json", json.dumps([emoart])),
        "emoset": ("train.json", json.dumps([["awe", "a.jpg", "a.json"]])),
        "findingemo": ("annotations_single.ann", "image_path,valence,arousal,emotion\na.jpg,1,2,Joy\n"),
        "flickr30k": ("dataset_flickr30k.json", json.dumps({"images": [{"filename": "a.jpg", "sentences": [{"raw": "x"}]}]})),
        "artemis": ("artemis_dataset_release_v0.csv", "art_style,painting,emotion,utterance\ns,p,awe,x\n"),
        "fi": ("votes.csv", "awe,http://x.test/a.jpg,1,4\nawe,http://[x/a.jpg,1,4\n"),
        "emotion6": ("ground_truth.txt", "[image_filename]\t[valence]\t[arousal]\n"),
    }
    for source, (name, text) in indexes.items():
        root = tmp_path / source
        (root / "images").mkdir(parents=True)
        for data in changed(text.encode(), draw, 60):
            (root / name).write_bytes(data)
            with contextlib.suppress(SourceError):
                assert all(isinstance(one, SourceRefusal) for one in open_source(source).read(root))
    path = tmp_path / "list.jsonl"
    for data in changed(b'{"url": "http://x.test/a", "emotion": "awe", "lineage": "{\\"a\\": 1}"}\n', draw, 200):
        path.write_bytes(data)
        list(read_list(path))


def test_a_json_index_of_brackets_and_a_table_of_one_line_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text in ("[" + "[" * 9 * MIB, '["' + "a" * 9 * MIB, "[" + "1" * 9 * MIB):
        path.write_text(text)
        with pytest.raises(SourceError, match="not JSON"):
            list(json_records(path))
    path.write_text("url" + "," * 2 * MIB)
    with pytest.raises(SourceError, match="a line of more than"):
        list(table_rows(path, ("url",)))


EMOTION6 = "\t".join(["image_filename", "valence", "arousal", *(f"prob. {word}" for word in (*EKMAN, "neutral"))]) + "\n"
ROWS_OF = {
    "emoset": ("train.json", "[", "0,", "0]"),
    "emoart": ("Annotation.json", "[", "[],", "0]"),
    "emoverse": ("train.json", "[", "{},", "0]"),
    "emoverse, lines": ("train.jsonl", "", "0\n", ""),
    "findingemo": ("data/annotations_single.ann", "image_path,valence,arousal,emotion\n", "a,b,c,d\n", ""),
    "findingemo, short": ("data/annotations_single.ann", "image_path,valence,arousal,emotion\n", "a\n", ""),
    "artemis": ("artemis_dataset_release_v0.csv", "art_style,painting,emotion,utterance\n", "a,b,c,d\n", ""),
    "emotion6": ("ground_truth.txt", EMOTION6, "a" + "\t1" * 9 + "\n", ""),
    "flickr30k": ("results_20130124.token", "", "a\tb\n", ""),
    "fi": ("a.csv", "", "hope,http://a/b,1,4\n", ""),
    "urls, CSV": ("list.csv", "url\n", "ftp://a\n", ""),
    "urls, text": ("list.txt", "", "ftp://a\n", ""),
}


@pytest.mark.parametrize("name", ROWS_OF)
def test_an_index_of_bad_rows_is_refused_before_its_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_BAD_ROWS_AT_FIRST", 50)
    file, head, row, end = ROWS_OF[name]
    write(tmp_path, {"images/a.jpg": 1, "wikiart/A/a.jpg": 2, file: head + row * 5000 + end})
    source = name.partition(",")[0]
    with pytest.raises(SourceError) as caught:
        list(read_list(tmp_path / file) if source == "urls" else open_source(source).read(tmp_path))
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / file}: not read further: 51 of its first ")
    assert "rows cannot be used; the first of them, " in said


def test_a_parquet_index_of_bad_rows_is_refused_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_BAD_ROWS_AT_FIRST", 50)
    table = pyarrow.table({"image": [b"x"] * 500, "emotion_category": ["hope"] * 500})
    pyarrow.parquet.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(SourceError, match=r"train-0.parquet: not read further: 51 of its first 51 rows .*\[0\]: .*hope"):
        list(open_source("emoverse").read(tmp_path))


def test_good_rows_with_bad_ones_are_read_and_each_bad_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "MAX_BAD_ROWS_AT_FIRST", 3)
    rows = [["awe", f"{n}.jpg", "a.json"] for n in range(20)]
    # Fewer than half of what was read, at any moment.
    mixed = [row for n, good in enumerate(rows) for row in ((good, 0) if n % 2 else (good,))]
    write(tmp_path, {"a.json": {"emotion": "awe"}, "train.json": mixed, **{f"{n}.jpg": n for n in range(20)}})
    found = list(open_source("emoset").read(tmp_path))
    bad = [item for item in found if isinstance(item, SourceRefusal) and "bad row" in item.reason]
    assert [item.file.rpartition("[")[2] for item in bad] == [f"{n}]" for n in range(2, 30, 3)]
    assert len([item for item in found if not isinstance(item, SourceRefusal)]) == 20
    monkeypatch.setattr(places, "MAX_BAD_ROWS", 8)
    with pytest.raises(SourceError, match="9 of its first 27 rows cannot be used"):
        list(open_source("emoset").read(tmp_path))


def test_one_row_again_and_again_and_files_that_are_not_there_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bound is higher: few images of a data set may have been downloaded."""
    monkeypatch.setattr(places, "MAX_BAD_ROWS_AT_FIRST", 3)
    rows = [["awe", f"{n}.jpg", f"{n}.json"] for n in range(100)]
    write(tmp_path, {"0.json": {"emotion": "awe"}, "0.jpg": 0, "train.json": rows})
    assert len([item for item in open_source("emoset").read(tmp_path) if not isinstance(item, SourceRefusal)]) == 1
    monkeypatch.setattr(places, "MAX_UNUSED_ROWS", 20)
    with pytest.raises(SourceError, match=r"21 of its first 22 rows .*train.json\[1\]:1: no such file"):
        list(open_source("emoset").read(tmp_path))
    (tmp_path / "train.json").write_text(json.dumps(rows[:1] * 100))
    with pytest.raises(SourceError, match=r"21 of its first 22 rows .*listed before: 0\.jpg"):
        list(open_source("emoset").read(tmp_path))
