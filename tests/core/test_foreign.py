"""What the decoder for foreign JSON refuses, and what it lets through unchanged."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_lightning.core.errors import InputError, MissingFileError, UserError
from emo_lightning.core.foreign import (
    as_number,
    decode_json,
    integer_of,
    json_lines,
    list_of,
    number_of,
    object_of,
    read_capped,
    text_of,
)


class OwnError(UserError):
    """A caller's own type."""


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]), st.booleans())
def test_what_json_can_say_comes_through_unchanged(value: object, encoding: str, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert decode_json(text.encode(encoding), "here") == value
    assert decode_json(text, "here") == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("\x00", "not JSON"),
        (b"\xff\xfe\xfd", "not JSON"),
        (b'"\xed\xa0\x80"', "not JSON"),
        ("[" * 65 + "]" * 65, "nested deeper than 64"),
        ("[" * 200_000, "nested deeper than 64"),
        ('{"a":' * 66 + "1" + "}" * 66, "nested deeper than 64"),
        ("1" * 5_000, "5000 digits"),
        (str(2**63), "19 digits; expected 64 bits"),
        ("1e999", "larger than a float"),
        ("[-1e999]", "larger than a float"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ('{"a": 1, "b": 2, "a": 1}', "'a' stands twice"),
        ('["\\ud83d"]', "half a character (a lone surrogate, \\ud83d)"),
        ('{"\\uDC00": 1}', "half a character"),
        ('"\ud83d"', "half a character"),
        ('"' + "a" * 100 + '"', "102 bytes of JSON; at most 100"),
    ],
)
def test_what_is_refused_says_where_and_why(text: str | bytes, said: str) -> None:
    limit = 100 if "102" in said else 1 << 20
    with pytest.raises(OwnError, match=r"^file\.json:3: ") as caught:
        decode_json(text, "file.json:3", OwnError, max_bytes=limit)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1,, "b": 2}', "here: not JSON: Expecting property name enclosed in double quotes at column 9"),
        # A line of a file ends with a line break, and begins no other line.
        ("[1, 2\r\n", "here: not JSON: Expecting ',' delimiter at column 6"),
        ('{"a": 1\n', "here: not JSON: Expecting ',' delimiter at column 8"),
        ('{\n "a": 1,\n "b" 2}\n', "here:3: not JSON: Expecting ':' delimiter at column 6"),
        ("\n\n[1 2]", "here:3: not JSON: Expecting ',' delimiter at column 4"),
        ('{\n"a": NaN}', "here: NaN is no number of JSON; expected a finite one, or null"),
    ],
)
def test_a_line_is_named_once(text: str, said: str) -> None:
    for data in (text, text.encode()):
        with pytest.raises(InputError) as caught:
            decode_json(data, "here")
        assert str(caught.value) == said


def test_what_a_caller_may_let_through() -> None:
    assert decode_json("[" * 64 + "]" * 64, "x") is not None
    assert decode_json('"\\ud83d\\ude00"', "x") == "\U0001f600"
    assert decode_json('{"\\ud83d": ["a\\udc00"]}', "x", half_characters="replace") == {"\ufffd": ["a\ufffd"]}
    assert decode_json('{"a": 1, "a": 2}', "x", repeated_keys="last") == {"a": 2}
    assert decode_json("[NaN, 1e999, -1e999]", "x", on_constant=lambda name: name) == ["NaN", "Infinity", "-Infinity"]
    assert decode_json(str(2**64), "x", integers="any float") == 2**64
    with pytest.raises(InputError, match="400 digits"):
        decode_json("1" * 400, "x", integers="any float")
    # Depth is of the value, not of the text.
    assert decode_json(json.dumps(["[" * 1000]), "x") == ["[" * 1000]


def test_a_stack_that_is_nearly_full_ends_in_the_same_error() -> None:
    def below(depth: int) -> None:
        if depth:
            return below(depth - 1)
        with pytest.raises(InputError, match="nested deeper"):
            decode_json("[" * 800 + "]" * 800, "x")
        return None

    below(sys.getrecursionlimit() // 2)


@pytest.mark.parametrize("value", [True, False, None, "3", [], {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_refused(value: object) -> None:
    assert as_number(value) is None
    with pytest.raises(OwnError, match=r"^price: found .*; expected a finite number"):
        number_of(value, "price", OwnError)
    with pytest.raises(OwnError, match=r"^price: found .*; expected a whole number of at least 0"):
        integer_of(value, "price", OwnError, low=0)


def test_types_are_what_they_are_called() -> None:
    assert (number_of(3, "x"), integer_of(3, "x"), text_of("", "x"), list_of([], "x"), object_of({}, "x")) == (
        3.0,
        3,
        "",
        [],
        {},
    )
    with pytest.raises(InputError, match=r"x: found 3\.5; expected a whole number"):
        integer_of(3.5, "x")
    with pytest.raises(InputError, match="x: found 11; expected a finite number from 1 to 10"):
        number_of(11, "x", low=1, high=10)
    with pytest.raises(InputError, match="x: found a list; expected an object"):
        object_of([], "x")
    with pytest.raises(InputError, match="x: found nothing; expected a list"):
        list_of(None, "x")
    with pytest.raises(InputError, match=r"x: found the text '\\u202e'; expected an object"):
        object_of("\u202e", "x")


def test_files_and_lines_end_at_their_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"12345\n\n  \n678")
    assert read_capped(file, 13) == b"12345\n\n  \n678"
    with pytest.raises(OwnError, match=r"a\.json: longer than 12 bytes"):
        read_capped(file, 12, OwnError)
    with pytest.raises(InputError, match="/dev/zero: longer than 1,000 bytes"):
        read_capped("/dev/zero", 1000)
    with pytest.raises(MissingFileError):
        read_capped(tmp_path / "b.json")
    with pytest.raises(InputError, match="cannot be read"):
        read_capped(tmp_path)
    assert list(json_lines(io.BytesIO(file.read_bytes()), "a")) == [("a:1", b"12345\n"), ("a:4", b"678")]
    with pytest.raises(OwnError, match=r"^a:1: a line of more than 5 bytes"):
        list(json_lines(io.BytesIO(file.read_bytes()), "a", OwnError, max_bytes=5))
