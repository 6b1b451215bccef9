"""Text from outside stays text: in terminals, Markdown, CSV and names."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_lightning.core.text import csv_cell, markdown_text, name_fault, plain, printable


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_active_reaches_a_terminal(text: str) -> None:
    shown = printable(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c\ud800-\udfff]", shown)
    assert all(unicodedata.category(char) not in ("Cc", "Cs") or char in "\t\n" for char in shown)
    shown.encode()
    assert "\n" not in plain(text)


def test_what_is_harmless_stays_as_it_is() -> None:
    text = "naïve 日本語 👩‍👧 می‌خواهم –\t1\n2"
    assert printable(text) == text
    assert printable("a\x1b[31mb\u202ec\x9b") == "a\\x1b[31mb\\u202ec\\x9b"


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "＝1"])
def test_a_formula_is_text_in_csv(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-1.5", "+3", "-1e-5", "-12 %", "", "awe", "a=b", "−2"])
def test_numbers_and_words_stay_in_csv(text: str) -> None:
    assert csv_cell(text) == text


def test_markdown_reads_nothing_of_it() -> None:
    hostile = "# x\n<script>alert(1)</script> [a](javascript:b) ![i](u) `c` **d** | e ~~f~~ &lt; $g$ \x1b"
    shown = markdown_text(hostile)
    assert "\n" not in shown
    assert "\x1b" not in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)[`*_\[\]#|~!$]", shown)
    assert markdown_text("- a") == "\\- a"
    assert markdown_text("1. a") == "1\\. a"
    assert markdown_text("plain words, 3.5") == "plain words, 3.5"


@pytest.mark.parametrize(
    "name", ["", "..", ".", "a/b", "/a", "a\\b", "../a", "a..b", "a\n", "a\x00b", "a\u202eb", " a", "a ", "~a", "\ud800"]
)
def test_no_name_leads_elsewhere(name: str) -> None:
    assert name_fault(name) is not None


@pytest.mark.parametrize("name", ["a", "train", "a.b", "süß 3", "emoset_0001", "日本", "-x"])
def test_names_that_are_fine(name: str) -> None:
    assert name_fault(name) is None
    assert name_fault("x" * 201) is not None
