"""Whatever a terminal or a pipe can show, no command ends at a character that it lacks."""

from __future__ import annotations

import io
import sys

import pytest

from emo_lightning.core.errors import speak_to_any_terminal


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", "caf\xe9 \\u2014 \\udcff"), ("ascii", "caf\\xe9 \\u2014 \\udcff")])
def test_what_it_lacks_is_escaped(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    speak_to_any_terminal()
    print("caf\xe9 — \udcff", end="", flush=True)
    assert written.getvalue().decode(encoding) == shown


def test_a_stream_that_is_no_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    speak_to_any_terminal()
    print("—")
