"""Every file below a folder is taken, refused or passed over by name and number; rows that contradict each other are named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.commands.import_images import refusals_written
from data_prep.sources import Refusal, SourceError, SourceItem, open_source
from data_prep.sources.addresses import ListedUrl, read_list
from data_prep.sources.base import PassedOver, RefusedError
from data_prep.sources.index_files import json_records, number, table_rows
from data_prep.sources.walk import OTHER_SUFFIXES
from emo_lightning.core.web.addresses import normal_url
from tests.data_prep.conftest import picture
from tests.data_prep.sources.trees import read, said, write

JPEG = picture(1, kind="JPEG")


def fates(folder: Path) -> tuple[set[str], set[str], dict[str, int]]:
    """Names taken, refused, and passed over with their counts."""
    found = list(open_source("folder").read(folder))
    passed = {Path(one.file).name: one.count for one in found if isinstance(one, PassedOver)}
    refused = {Path(one.file).name for one in found if isinstance(one, Refusal) and not isinstance(one, PassedOver)}
    return {one.key for one in found if isinstance(one, SourceItem)}, refused, passed


def test_photographs_under_any_name_are_taken_or_refused(tmp_path: Path) -> None:
    taken = ["a.jpe", "b.jfif", "c.jpg_large", "d.JPG~", "e", "f.jpeg.part", "g.dat", "h.1", "i.MPO", "j.pjpeg", "k.jpg"]
    for name in taken:
        (tmp_path / name).write_bytes(JPEG)
    refused = [f"raw{ending}" for ending in OTHER_SUFFIXES] + ["Upper.RAF", "broken.jpe"]
    for name in refused:
        (tmp_path / name).write_bytes(b"anything")
    begins = {
        "gif": b"GIF89a",
        "tiff": b"II*\0",
        "heic.0": b"\0\0\0\x18ftypheic",
        "bmp": b"BM0000\0\0\0\0",
        "fuji.x": b"FUJIFILMCCD-RAW",
    }
    for name, head in begins.items():
        (tmp_path / name).write_bytes(head + b"\0" * 40)
    found = fates(tmp_path)
    assert found == (set(taken), {*refused, *begins}, {})
    assert {".3fr", ".orf", ".rw2", ".pef", ".srw", ".hif", ".x3f", ".iiq"} <= set(OTHER_SUFFIXES)


def test_what_is_no_picture_is_passed_over_by_name_and_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"photo.jpg": JPEG, "notes.txt": "x", "empty": b"", ".DS_Store": b"x", "._photo.jpg": b"x"})
    write(tmp_path, {".git/a": b"x", ".git/b/c": b"x", "b/photo.xmp": b"x"})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "out").symlink_to("/etc/passwd")
    assert fates(tmp_path) == (
        {"photo.jpg"},
        set(),
        {
            "notes.txt": 1,
            "empty": 1,
            ".DS_Store": 1,
            "._photo.jpg": 1,
            ".git": 2,
            "photo.xmp": 1,
            "pipe": 1,
            "gone": 1,
            "out": 1,
        },
    )
    refusals = tmp_path.parent / "refused.jsonl"
    assert main(["import", "folder", str(tmp_path), "--into", str(tmp_path.parent / "s"), "--refusals", str(refusals)]) == 0
    shown = capsys.readouterr()
    assert "passed over 10 files" in shown.out
    assert "2 × hidden folder" in shown.out
    assert "notes.txt: not a picture (.txt)" in shown.err
    assert len(refusals.read_text().splitlines()) == 9


def test_refusals_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    """An import that is interrupted leaves the list of the one before."""
    path = tmp_path / "refused.jsonl"
    path.write_text("before\n")

    def ending(error: Exception | None) -> Iterator[SourceItem | Refusal]:
        yield Refusal("a", None, "broken")
        if error is not None:
            raise error

    with pytest.raises(RuntimeError), refusals_written(ending(RuntimeError()), str(path)) as items:
        list(items)
    assert path.read_text() == "before\n"
    with refusals_written(ending(None), str(path)) as items:
        list(items)
    assert json.loads(path.read_text())["reason"] == "broken"
    assert [one.name for one in tmp_path.iterdir()] == ["refused.jsonl"]
    with pytest.raises(SourceError, match="cannot be written"), refusals_written(ending(None), str(path / "x")) as items:
        list(items)


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a/1.jpg": JPEG, "closed/2.jpg": JPEG})
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert fates(tmp_path) == ({"a/1.jpg"}, {"closed"}, {})


def test_pictures_that_no_row_names_are_told(tmp_path: Path) -> None:
    rows = [{"id": "1", "image_path": "images/1.jpg", "emotion": "awe"}]
    write(tmp_path, {"train.json": rows, "images/1.jpg": JPEG, "images/2.jpg": JPEG, "images/3.nef": b"x", "README": "x"})
    passed = [one for one in open_source("emoverse").read(tmp_path) if isinstance(one, PassedOver)]
    assert said(passed, tmp_path) == [
        "README: not a picture (no ending)",
        "images/2.jpg: no usable row names it (.jpg)",
        "images/3.nef: no usable row names it (.nef)",
    ]
    listed = write(tmp_path / "b", {"one.json": rows, "images/1.jpg": JPEG, "private.txt": "x"})
    assert not [one for one in open_source("emoverse").read(listed / "one.json") if isinstance(one, PassedOver)]


def test_rows_that_contradict_each_other_are_both_named(tmp_path: Path) -> None:
    def row(name: str, emotion: str, **more: str) -> dict[str, str]:
        return {"id": name, "image_path": f"images/{name}.jpg", "emotion": emotion, **more}

    rows = [row("a", "awe"), row("b", "awe"), row("a", "fear"), row("b", "awe"), row("c", "awe", split="train")]
    rows.append(row("c", "awe", split="test"))
    write(tmp_path, {"x.json": rows, **{f"images/{name}.jpg": picture(i, kind="JPEG") for i, name in enumerate("abc")}})
    items, refused, repeated = read("emoverse", tmp_path)
    assert set(items) == {"b"}
    assert len(repeated) == 1
    messages = said(refused, tmp_path)
    assert [text.split(":")[0] for text in messages] == ["x.json[0]", "x.json[2]", "x.json[4]", "x.json[5]"]
    assert "x.json[2]:1 has for a" in messages[0]


@pytest.mark.parametrize("value", [True, False, "true", "", None, float("nan"), float("inf"), "1_0", "٣", "nan", [1], 10**400])
def test_what_is_no_number_is_none(value: object) -> None:
    with pytest.raises(ValueError, match="out of range"):
        number({"x": value}, "x", -1e9, 1e9)
    assert number({"x": " 2.5e0 "}, "x", 0, 10) == 2.5


@pytest.mark.parametrize("text", ["url;licence\nu;CC0\n", "url\tlicence\nu\tCC0\n", '\ufeff"url","licence"\n"u","CC0"\n'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_with_tabs_semicolons_quotes_and_marks_are_read(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text if encoding == "utf-8" else text.removeprefix("\ufeff"), encoding=encoding)
    assert [row for _, row in table_rows(tmp_path / "t.csv", ("url",))] == [{"url": "u", "licence": "CC0"}]


def test_a_stray_quote_takes_no_other_row_along(tmp_path: Path) -> None:
    lines = ["a,b", '"open,1', "x,2", 'y,"5"" tall"', '"two', 'lines",3', 'z,"no"t', 'w,5" tall', "last,4"]
    (tmp_path / "t.csv").write_bytes("\n".join(lines).encode() + b"\n\xff,5\nend,6\n")
    found = list(table_rows(tmp_path / "t.csv", ("a", "b")))
    assert [row["a"] for _, row in found if not isinstance(row, Refusal)] == ["x", "y", "two\nlines", "w", "last", "end"]
    assert [row.line for _, row in found if isinstance(row, Refusal)] == [2, 7, 10]


def test_one_bad_row_does_not_end_an_index(tmp_path: Path) -> None:
    bad = ['{"a": 1, "a": 2}', '{"a": "\\ud800"}', '{"a": ' + "9" * 5000 + "}", "[" * 70 + "]" * 70, '{"a": 1e999999999}']
    path = tmp_path / "x.json"
    path.write_text(f"[{','.join(bad)}, 7]")
    values = [value for _, _, value in json_records(path)]
    assert [isinstance(value, Refusal) for value in values] == [True, True, True, True, False, False]
    path = tmp_path / "x.jsonl"
    path.write_bytes("\n".join([*bad, '{"cut": 1', "7"]).encode() + b'\n"\xff"\n8\n')
    values = [value for _, _, value in json_records(path)]
    assert [json.dumps(value) for value in values if not isinstance(value, Refusal)] == ['{"a": null}', "7", "8"]
    assert [value.line for value in values if isinstance(value, Refusal)] == [1, 2, 3, 4, 6, 8]


def test_lists_of_addresses_with_tabs_and_contradictions(tmp_path: Path) -> None:
    text = tmp_path / "list.txt"
    text.write_bytes("https://a.org/1.jpg\nhttps://a.org/2.jpg\tCC0\n".encode("utf-16"))
    found = list(read_list(text))
    assert [one.url for one in found if isinstance(one, ListedUrl)] == ["https://a.org/1.jpg"]
    assert [one.reason.split(": ")[2] for one in found if isinstance(one, Refusal)] == [
        "a tab, another control character or half a character in it"
    ]
    table = tmp_path / "list.tsv"
    rows = [
        "url\tlicence\temotion",
        "https://a.org/1\tCC0\tawe",
        "https://a.org/1\tCC0\tfear",
        "https://a.org/2\tCC0\t",
        "https://a.org/2\t\tawe",
    ]
    table.write_text("\n".join(rows))
    found = list(read_list(table))
    assert [type(one).__name__ for one in found] == ["Refusal", "Refusal", "ListedUrl", "Repeat"]
    assert str(found[0]).split(": ", 1)[1].startswith("contradiction: another emotion or licence than line 3")


@pytest.mark.parametrize(
    "url",
    [
        "http://[:1]:8@/",
        "http://[:-1]:80/a",
        "http://x:99999/",
        "http://[fe80::1%25\ud800]/",
        "http://a\tb/",
        "http:///x",
        "http://[/",
    ],
)
def test_what_is_no_address_is_refused_where_it_is_read(url: str) -> None:
    with pytest.raises(RefusedError):
        normal_url(url)


def test_addresses_are_refused_or_are_addresses(tmp_path: Path) -> None:
    import random

    from yarl import URL

    draw = random.Random(10)
    for _ in range(3000):
        text = list(
            draw.choice(["http://[::1]:80/a", "https://x.test/a?b#c", "http://a:b@c/", "http://[fe80::1%25eth0]/", "/rel"])
        )
        for _ in range(draw.randrange(4)):
            text[draw.randrange(len(text))] = draw.choice("[]:@/?#%.a8\t\0\u202e\ud800-")
        try:
            url = normal_url("".join(text))
        except RefusedError:
            continue
        assert URL(url).origin().port is not None
        url.encode()


def told(name: str, folder: Path) -> list[str]:
    """What a source yields: keys of items, and the first words of everything else."""
    found = open_source(name).read(folder)
    return [one.key if isinstance(one, SourceItem) else f"{Path(one.file).name}: {one.reason.split(':')[0]}" for one in found]


def test_records_that_differ_in_a_box_alone_contradict_each_other(tmp_path: Path) -> None:
    row = {"id": "a", "image_path": "images/a.jpg", "emotion": "awe", "bbox": [{"x1": 1, "y1": 1, "x2": 9, "y2": 9}]}
    moved = {**row, "bbox": [{"x1": 2, "y1": 1, "x2": 9, "y2": 9}]}
    write(tmp_path, {"images/a.jpg": JPEG, "x.json": json.dumps([row, moved, row])})
    assert told("emoverse", tmp_path) == [
        *(f"x.json[{n}]: contradiction" for n in range(3)),
        "a.jpg: no usable row names it (.jpg)",
    ]


def test_a_link_to_a_folder_is_told_once(tmp_path: Path) -> None:
    write(tmp_path, {"emotion_dataset/awe/a.jpg": JPEG, "elsewhere/b.jpg": JPEG})
    (tmp_path / "emotion_dataset/awe/link").symlink_to(tmp_path / "elsewhere")
    assert told("fi", tmp_path) == ["link: link to a folder, not followed", "awe/a.jpg", "b.jpg: no usable row names it (.jpg)"]


def test_an_image_whose_row_is_refused_is_not_one_without_votes(tmp_path: Path) -> None:
    """Its folder would have given it the label that most people may have declined."""
    write(tmp_path, {"images/awe/1.jpg": JPEG, "images/awe/2.jpg": JPEG, "images/awe/3.jpg": JPEG})
    write(tmp_path, {"V.CSV": "awe,http://a/1.jpg,1,4\nawe,http://a/2.jpg,true,4\n"})
    assert told("fi", tmp_path) == ["awe/1.jpg", "V.CSV: disagree is out of range", "2.jpg: its row is refused", "awe/3.jpg"]


@pytest.mark.parametrize("name", ["x.JSON", "x.Jsonl", "annotations/X.JSON"])
def test_an_index_is_known_by_its_ending_in_any_case(tmp_path: Path, name: str) -> None:
    row = json.dumps({"id": "a", "image_path": "images/a.jpg", "emotion": "awe"})
    write(tmp_path, {"images/a.jpg": JPEG, name: row if name.endswith("l") else f"[{row}]"})
    assert told("emoverse", tmp_path) == ["a"]


@pytest.mark.parametrize(("mark", "quote"), [("\t", ""), ("\t", '"'), (",", ""), (",", '"'), (";", '"')])
def test_a_table_that_should_have_tabs_may_have_quotes_or_commas(tmp_path: Path, mark: str, quote: str) -> None:
    votes = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
    header = ["[image_filename]", "[valence]", "[arousal]", *(f"[prob. {vote}]" for vote in votes)]
    rows = [header, ["joy/1.jpg", "5", "5", "1", *"000000"]]
    text = "\n".join(mark.join(f"{quote}{cell}{quote}" for cell in row) for row in rows)
    write(tmp_path, {"images/joy/1.jpg": JPEG, "ground_truth.txt": text})
    assert told("emotion6", tmp_path) == ["joy/1.jpg"]
