"""Whatever a terminal or a pipe can show, no command ends at a character that it lacks."""

from __future__ import annotations

import io
import json
import logging
import sys
import types
import warnings

import pytest
import rich.table
from rich.text import Text

from emo_lightning.core.console import Console
from emo_lightning.core.errors import run_guarded
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import on_a_terminal, say, say_json, speak_to_any_terminal
from emo_lightning.core.text import printable


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", "caf\xe9 \\u2014 \\udcff"), ("ascii", "caf\\xe9 \\u2014 \\udcff")])
def test_what_it_lacks_is_escaped(encoding: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    speak_to_any_terminal()
    print("caf\xe9 — \udcff", end="", flush=True)
    assert written.getvalue().decode(encoding) == shown


WARNINGS_OWN = types.FunctionType((lambda message: None).__code__, {"__name__": "warnings"})
"""In the place of what pytest has put into its own, to collect warnings."""
HOSTILE = "a\x1b[2J\u202egpj.exe\x9b31m\r\n"
SHOWN = r"a\x1b[2J\u202egpj.exe\x9b31m\x0d" + "\n"


def test_what_is_said_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("café 🙂", HOSTILE, end="")
    assert capsys.readouterr().out == f"café 🙂 {SHOWN}"


def test_json_stays_json_on_every_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"é\U000e0041": HOSTILE + "\ud800"}
    for encoding in ("ascii", "latin-1", "utf-8"):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        speak_to_any_terminal()
        say_json(said, indent=1)
        sys.stdout.flush()
        text = written.getvalue().decode(encoding)
        assert json.loads(text) == said
        assert printable(text) == text


def test_log_lines_and_warnings_of_all_libraries_are_printable(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkey = pytest.MonkeyPatch()
        monkey.setattr(warnings, "_showwarnmsg_impl", WARNINGS_OWN)
        speak_to_any_terminal()
        warnings.warn(HOSTILE, stacklevel=1)
        monkey.undo()
    err = capsys.readouterr().err
    assert SHOWN.strip() in err
    assert printable(err) == err
    logging.getLogger("another.library").warning("cannot read %s", HOSTILE)
    assert SHOWN in caplog.text


def test_a_console_styles_and_its_texts_do_not(capsys: pytest.CaptureFixture[str]) -> None:
    table = rich.table.Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE))
    file = io.StringIO()
    Console(file=file, force_terminal=True, width=120).print(table, "[red]red[/]", HOSTILE)
    assert "\x1b[31mred" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()
    assert not set("\u202e\x9b\r") & set(file.getvalue())
    Console(file=file).print(HOSTILE)


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_no_bars_where_a_terminal_cannot_move(
    term: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bars() as bars:
        bars.update(bars.add_task(HOSTILE, total=2), advance=1)
    shown = capsys.readouterr().err
    assert bool(shown) == (term == "xterm")
    assert "\x1b[2J" not in shown


def test_a_traceback_and_an_error_show_what_they_name(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> int:
        raise RuntimeError(HOSTILE)

    assert run_guarded(fail, ["emo"]) == 1
    err = capsys.readouterr().err
    assert SHOWN.strip() in err
    assert printable(err) == err


def test_a_stream_that_is_no_file_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    speak_to_any_terminal()
    print("—")


@pytest.mark.parametrize("columns", ["abc", "0", "-5", "\u00b2", "9" * 20, "99999999", "", "1e3", "40"])
def test_any_word_may_stand_in_columns(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    console = Console(file=out, force_terminal=True)
    table = rich.table.Table("a", expand=True)
    table.add_row("[bold]x")
    console.print(table)
    assert "x" in out.getvalue()
    assert console.width == 40 if columns == "40" else 20 <= console.width <= 10_000
    assert console.no_color


def test_a_stream_that_was_closed_before_we_began_is_no_terminal() -> None:
    closed = io.StringIO()
    closed.close()
    assert not any(map(on_a_terminal, (None, closed, io.StringIO())))
