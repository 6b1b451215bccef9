"""Index files: each row with its place, whatever the size, and one clear error for what is broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.sources import SourceError, SourceRefusal, json_index
from data_prep.sources.index_files import json_records, table_rows

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values=st.lists(json_values, max_size=6), indent=st.sampled_from([None, 1]), chunk=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_any_array_is_read_as_json_reads_it(
    tmp_path_factory: pytest.TempPathFactory, values: list[object], indent: int | None, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("json") / "index.json"
    text = json.dumps(values, indent=indent, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        # Every way in which a block can end within a value.
        patch.setattr(json_index, "_CHUNK", chunk)
        found = list(json_records(path))
        assert [value for _, _, value in found] == values
        path.write_text(
            json.dumps({"name": 1.5, "images": values, "more": 2}, indent=indent, ensure_ascii=False), encoding="utf-8"
        )
        assert [value for _, _, value in json_records(path, "images")] == values
    assert [place.file for place, _, _ in found] == [f"{path}[{i}]" for i in range(len(values))]


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text('\ufeff[\n {"a":\n  1},\n\n {"b": 2}, {"c": 3}\n]\n', encoding="utf-8")
    assert [(place.line, value) for place, _, value in json_records(path)] == [(2, {"a": 1}), (5, {"b": 2}), (5, {"c": 3})]
    path.write_text('{"x": {"a": NaN},\n"y": {"b": 2}}', encoding="utf-8")
    assert [(place.line, key, value) for place, key, value in json_records(path)] == [(1, "x", {"a": None}), (2, "y", {"b": 2})]
    lines = tmp_path / "index.jsonl"
    lines.write_text('{"a": 1}\n\n{"b": 2}\n', encoding="utf-8")
    assert [(place.line, value) for place, _, value in json_records(lines)] == [(1, {"a": 1}), (3, {"b": 2})]
    path.write_text("[]")
    assert list(json_records(path)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ":1: not JSON: the file ends"),
        ('[{"a": 1},\n', ":2: not JSON"),
        ('[{"a": 1}\n{"b": 2}]', ":2: not JSON: '{' where ',' or ']'"),
        ('[\n{"a" 1}]', ":2: not JSON: Expecting ':' delimiter at column 6$"),
        ('[\n{"a": 1},\n{\n"b": 2,\n"c" 3}]', ":5: not JSON: Expecting ':' delimiter at column 5$"),
        ('[{"a": 1}]\n[]', ":2: not JSON: '\\[' after the end"),
        ('{"a": 1}\n{"b": 2}', "JSON lines have the name .jsonl"),
        ("hello", ":1: not JSON: 'h'"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_broken_json_names_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SourceError, match=message):
        list(json_records(path))


def test_a_broken_value_is_not_read_to_the_end_of_a_large_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_index, "_CHUNK", 100)
    monkeypatch.setattr(json_index, "_MAX_VALUE", 1000)
    path = tmp_path / "index.json"
    path.write_text('[{"a": 1}, {"never closed": "' + "x" * 100_000)
    rows = json_records(path)
    assert next(rows)[2] == {"a": 1}
    with pytest.raises(SourceError, match="not JSON"):
        next(rows)


def test_table_rows_have_their_first_line(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text('\ufeff[A], b \n"two\nlines",2\n\n3\n5,6\n', encoding="utf-8")
    rows = list(table_rows(path, ("a", "b")))
    assert [(place.line, row) for place, row in rows if not isinstance(row, SourceRefusal)] == [
        (2, {"a": "two\nlines", "b": "2"}),
        (6, {"a": "5", "b": "6"}),
    ]
    assert [str(row) for _, row in rows if isinstance(row, SourceRefusal)] == [
        f"{path}:5: wrong number of fields: 1, expected 2"
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_header_says_what_stands_between_columns(tmp_path: Path, mark: Literal[",", ";", "\t"]) -> None:
    path, row = tmp_path / "table.csv", f'1{mark}"two{mark}three"\n'
    path.write_text(f"a{mark}b\n{row}", encoding="utf-8")
    expected = {"a": "1", "b": f"two{mark}three"}
    assert [row for _, row in table_rows(path, ("a", "b"))] == [expected]
    path.write_text(row, encoding="utf-8")
    (found,) = [row for _, row in table_rows(path, (), delimiter=mark, names=("a", "b"))]
    if mark == "\t":
        # Quotes mean nothing there, so this row has a field too many.
        assert isinstance(found, SourceRefusal)
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a,c\n1,2\n", "column b is missing; found: a, c"), (b"", "empty"), (b"a,b,a\n1,2,3\n", "column a stands there twice")],
)
def test_what_is_no_table_is_one_error(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(table_rows(path, ("a", "b")))
