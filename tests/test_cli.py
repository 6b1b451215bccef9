"""The command line: quick help without heavy imports, an example for every command, and one line for every error."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.cli import COMMANDS as PREP
from emo_lightning.cli import COMMANDS, lightning_main, main

ROOT = Path(__file__).parents[1]
PAGES = [
    ["--help"],
    *([name, "--help"] for name in COMMANDS),
    *(["prep", name, "--help"] for name in PREP),
    *(["des", verb, "--help"] for verb in ("retrieval", "distance", "interpolate", "stability")),
    *(["prep", "expand", what, "--help"] for what in ("queries", "images")),
]

RUN_AND_LIST = """
import sys
from emo_lightning.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
heavy = [m for m in ("torch", "transformers", "lightning", "peft", "matplotlib", "numpy", "openai", "sklearn") if m in sys.modules]
print("HEAVY", heavy, code)
"""


@pytest.mark.parametrize("argv", PAGES, ids=" ".join)
def test_help_is_light_and_holds_an_example(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST, *argv], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    page, _, end = done.stdout.rpartition("HEAVY ")
    assert end.strip() == "[] 0", done.stdout
    assert "usage: " in page
    assert "example" in page
    assert "--debug" in page
    command = "lightning run" if argv[0] == "run" else " ".join(["emo", *argv[:-1]])
    assert command in page.split("example", 1)[1] or command == "emo"


def test_help_answers_in_half_a_second() -> None:
    """Of processor time, as other work may run beside; `python -c pass` is what the interpreter itself takes."""

    def best(*command: str) -> float:
        took = []
        for _ in range(5):
            started = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            took.append(ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime)
        return min(took)

    empty = best("-c", "pass")
    assert best("-m", "emo_lightning", "--help") < max(0.5, 5 * empty)


def test_every_command_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    page = capsys.readouterr().out
    assert all(f"  {name} " in page for name in COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out[0].isdigit()


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demmo"]) == 2
    allowed = f"did you mean demo? allowed: {', '.join(COMMANDS)}; see emo --help"
    assert capsys.readouterr().err == f"error: emo: unknown command 'demmo'; {allowed}\n"
    assert main(["prep", "imports"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: emo prep: unknown command 'imports'; did you mean import or export? allowed: import, expand")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["report"], "emo report: the following arguments are required: RUN; see emo report --help"),
        (["report", "a", "--no"], "emo report: unrecognized arguments: --no; see emo report --help"),
        (["prep", "graph"], "emo prep graph: the following arguments are required: "),
        (["prep", "import"], "emo prep import: "),
        (["prep", "import", "nothing", "x"], "emo prep import: "),
        (["index"], "emo index: "),
        (["benchmark", "none"], "emo benchmark: "),
    ],
)
def test_a_mistake_on_the_line_is_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`docs/how-to/errors.md` says so of whatever one can mend; `--help` has the usage."""
    try:
        code: object = main(argv)
    except SystemExit as end:
        code = end.code
    assert code == 2
    found = capsys.readouterr().err
    assert found.count("\n") == 1, found
    assert found.startswith(f"error: {said}"), found
    assert "--help" in found


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run"], None),
        (["run", "no.yaml"], "no.yaml: no such file"),
        (["run", "a.yaml", "b.yaml"], "expected one experiment file, found 2: a.yaml b.yaml"),
        (["run", "a.yaml", "--vars.x"], "--vars.x needs a value"),
        (["run", "a.yaml", "--vars.x", "--vars.y", "1"], "--vars.x needs a value"),
        (
            ["embed", "a.jpg", "b.tar", "--out", "o"],
            "images such as a.jpg go to a .jsonl or .parquet file; tars alone may go to a folder",
        ),
        (["embed", "a.jpg", "--out", "o"], "--out o: images such as a.jpg go to a .jsonl or .parquet file"),
        (["embed", "a.jpg", "--out", "o.parquet", "--batch-size", "0"], "--batch-size 0: expected at least 1"),
        (["embed", "no.jpg", "--out", "o.parquet"], "no.jpg: no such file"),
        (["explain", "no.jpg"], "no.jpg: no such file"),
        (["export", "nowhere", "--merge", "--out", "o"], "nowhere: no adapter_config.json there"),
        (["report", "nowhere"], "nowhere"),
        (["eval", "no.jsonl", "no2.jsonl"], "no"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_user_errors_are_one_line(
    argv: list[str], message: str | None, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = main(argv)
    captured = capsys.readouterr()
    if message is None:
        assert code == 0
        assert captured.out.startswith("usage:")
        return
    assert code == 2
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("emo_lightning.commands.eval.main", lambda argv: list(zip(argv, "", strict=True)))
    assert main(["eval", "some file.jsonl"]) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert "ValueError: zip() argument 2 is shorter than argument 1" in error
    last = error.splitlines()[-1]
    assert last.startswith("error: this is a bug in emo-lightning, not a mistake of yours: please report it")
    assert last.endswith("the command: emo eval 'some file.jsonl'")


@pytest.mark.parametrize("argv", [["--debug", "report", "nowhere"], ["report", "--debug", "nowhere"], ["report", "nowhere"]])
def test_debug_shows_the_traceback_of_a_user_error(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--debug" not in argv:
        monkeypatch.setenv("EMO_DEBUG", "1")
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.splitlines()[-1].startswith("error: ")
    assert ("EMO_DEBUG" in os.environ) == ("--debug" not in argv)


def test_debug_through_prep_and_lightning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["prep", "status", "nowhere", "--debug"], ["prep", "--debug", "status", "nowhere"]):
        assert main(argv) == 2
        assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert main(["prep", "status", "nowhere"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    for words in (["run", "no.yaml", "--debug"], ["--debug", "run", "no.yaml"]):
        monkeypatch.setattr(sys, "argv", ["lightning", *words])
        assert lightning_main() == 2
        error = capsys.readouterr().err
        assert "Traceback (most recent call last)" in error
        assert "error: no.yaml: no such file" in error


# `lightning`


def test_lightning_run_is_emo_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning", "run", "--help"])
    assert lightning_main() == 0
    assert capsys.readouterr().out.startswith("usage: lightning run EXPERIMENT.yaml")


@pytest.mark.parametrize(("argv", "code"), [([], 0), (["--help"], 0), (["login"], 2)])
def test_other_lightning_commands_belong_to_the_sdk(
    argv: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from importlib import metadata

    def absent(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    monkeypatch.setattr(sys, "argv", ["lightning", *argv])
    assert lightning_main() == code
    error = capsys.readouterr().err
    assert "lightning run EXPERIMENT.yaml" in error
    assert "pip install lightning-sdk" in error
    assert error.startswith("error: lightning login: ") == (code == 2)
    assert error.count("\n") == 1
