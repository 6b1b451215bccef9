"""Every option of every command does what it says or is refused: numbers, modes, and what a mode does not use."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import data_prep.cli
import emo_lightning.cli
from data_prep.commands.console import add_engine_arguments
from data_prep.engine import EngineError, chosen_engine
from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import ALWAYS, Parser, Real, Whole, named_places

_NO_PARSER = ("demo", "prep", "run", "sweep")
"""They take dotted keys of an experiment, or commands of their own."""
MODULES = {
    **{name: module for name, (module, _) in emo_lightning.cli.COMMANDS.items() if name not in _NO_PARSER},
    **{f"prep {name}": f"data_prep.commands.{module}" for name, (module, _) in data_prep.cli.COMMANDS.items()},
}
MANY_MODES = [
    "benchmark",
    "export",
    "index",
    "predict",
    "eval",
    "calibrate",
    "report",
    "prep annotate",
    "prep dedup",
    "prep expand",
    "prep import",
    "prep review",
    "prep stats",
]
"""Commands that do not use all options always. A new option of theirs is in a mode, or the parser fails."""


class _FoundError(Exception):
    pass


def parsers(command: str, monkeypatch: pytest.MonkeyPatch) -> list[Parser]:
    """The parser of a command, and those of its verbs."""
    found: list[argparse.ArgumentParser] = []

    def stop(self: argparse.ArgumentParser, args: Sequence[str] | None = None) -> argparse.Namespace:
        found.append(self)
        raise _FoundError

    for kind in (argparse.ArgumentParser, Parser):
        monkeypatch.setattr(kind, "parse_args", stop)
    with pytest.raises(_FoundError):
        importlib.import_module(MODULES[command]).main([])
    return [parser for parser in _below(found[0]) if isinstance(parser, Parser)]


def _below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from _below(verb)


@pytest.mark.parametrize("command", MODULES)
def test_every_number_says_what_it_may_be(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = parsers(command, monkeypatch)
    assert found
    for parser in found:
        for action in parser._actions:
            assert action.type not in (int, float), f"{command} {action.option_strings}: type=Whole(…) or Real(…)"
            if isinstance(action.type, Whole | Real) and isinstance(action.default, int | float):
                assert action.type(str(action.default)) == action.default, action.option_strings
    assert any(parser._modes for parser in found) == (command in MANY_MODES)


@pytest.mark.parametrize("command", MODULES)
def test_where_to_write_is_no_url(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of it would be a folder of that name here, and one of nothing the current folder. (An index may lie behind a URL.)"""
    for parser in parsers(command, monkeypatch):
        for action in parser._actions:
            if {"--out", "--overlays", "--html", "--store", "--into"} & {*action.option_strings} and action.type is not None:
                assert callable(action.type)
                for url in ("s3://bucket/x.jsonl", "file:///x.jsonl"):
                    with pytest.raises(InputError, match=r"^expected a path of this machine"):
                        action.type(url)
                with pytest.raises(InputError, match=r"^found an empty path"):
                    action.type("")
                assert action.type("a/b.jsonl") == Path("a/b.jsonl")


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "nan", "inf", "", "1e3", "²", "9" * 30, "1_0", "True"])
def test_a_whole_number_is_one(text: str) -> None:
    with pytest.raises(InputError, match="at least 1"):
        Whole(1)(text)
    assert Whole(1)(" 7") == 7


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "-inf", "1e999", "", "1,5", "1_0", "1.01"])
def test_a_share_is_one(text: str) -> None:
    with pytest.raises(InputError, match="finite number, more than 0, at most 1"):
        Real(0, 1, above=True)(text)
    assert Real(0, 1, above=True)("5e-1") == 0.5


def test_an_option_in_no_mode_is_a_bug() -> None:
    parser = Parser("emo x")
    parser.add_argument("--new")
    with pytest.raises(AssertionError, match=r"in no mode \['new'\]"):
        parser.modes({ALWAYS: ()})


UNUSED = {
    "eval p.jsonl r.jsonl --json --by-emotion": "--by-emotion is for tables",
    "calibrate p.jsonl r.jsonl --alpha 0.1": "--alpha is for conformal sets (--fit)",
    "calibrate p.jsonl r.jsonl --score aps": "--score is for conformal sets (--fit)",
    "report runs/x --project p": "--project is for W&B (--wandb)",
    "prep annotate s --cancel-batches --batch": "--batch is for a pass; this is the end of batches",
    "prep annotate s --cancel-batches --estimate": "--estimate is for a pass; this is the end of batches",
    "prep annotate s --cancel-batches --engine local": "--engine is for a pass",
    "prep dedup s --cosine 0.9": "--cosine is for embeddings (--model)",
    "prep dedup s --no-crops --near-correlation 0.5": "--near-correlation is for crops (without --no-crops)",
    "prep expand queries s --out q --count 1 --no-llm --budget 1": "--budget is for queries that a model writes",
    "prep expand queries s --out q --count 1 --no-llm --base-url http://x": "--base-url is for queries that a model writes",
    "prep import folder p --into s --timeout 1": "--timeout is for urls; this is ",
    "prep import folder p --into s --allow-private": "--allow-private is for urls",
    "prep import emoset p --into s --name n": "--name is for a folder or urls or images with labels of your own",
    "prep import world p --into s --licence CC0-1.0": "--licence is for sources of images that others made",
    "prep review s --json": "--json is for a report (--report) or the report of a study",
    "prep review s --report --port 1": "--port is for the review page or the page of a study",
    "prep review s --report --label-studio-import f": "--report is for a report",
    "prep review s --study c --seed 1": "--seed is for the review page",
    "prep review s --label-studio-import f --sample 3": "--sample is for the review page or --label-studio-export",
    "prep review s --images data": "--images is for --label-studio-export",
    "prep ground s --device gpu": "device 'gpu' cannot be used: allowed are cpu, cuda, ",
    "prep stats s --json --name n": "--name is for text",
}


@pytest.mark.parametrize("line", UNUSED)
def test_what_a_mode_does_not_use_is_refused(
    line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    code = main(line.split())
    assert capsys.readouterr().err.startswith(f"error: {UNUSED[line]}")
    assert code == 2


@pytest.mark.parametrize(
    "line",
    [
        "predict m t --out p.jsonl --max-pixels nan",
        "embed a.jpg --out o.parquet --batch-size -1",
        "des stability m --references r --out o --max-images 2",
        "calibrate p r --fit f --alpha nan",
        "faithfulness t --max-overlap inf",
        "eval p r --resamples 99999999999",
        "prep import urls l --into s --per-host-rate nan",
        "prep review s --port 65536",
        "prep export s o --samples-per-shard 0",
        "prep dedup s --threshold 65",
    ],
)
def test_a_number_that_means_nothing_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    option, value = line.split()[-2:]
    assert capsys.readouterr().err.startswith(f"error: {option} {value}: expected ")


@pytest.mark.parametrize("option", ["--ray-without-token", "--ray-address h:1"])
def test_a_cluster_is_for_ray(option: str) -> None:
    parser = argparse.ArgumentParser()
    add_engine_arguments(parser)
    with pytest.raises(EngineError, match=f"{option}: only --engine ray uses a cluster"):
        chosen_engine(parser.parse_args(option.split())).__enter__()


def test_places_by_name(tmp_path: Path) -> None:
    there = tmp_path / "lr=0.1"
    there.mkdir()
    given = ["ours=a.jsonl", "remote=s3://bucket/b=1.jsonl"]
    assert named_places("--arm", given) == {"ours": "a.jsonl", "remote": "s3://bucket/b=1.jsonl"}
    folders = [str(there), f"other={there}", "runs/lr=0.2"]
    expected = {"lr=0.1": str(there), "other": str(there), "lr=0.2": "runs/lr=0.2"}
    assert named_places("INPUT", folders, lambda path: path.name) == expected
    for wrong in ("a.jsonl", "=a", "a=", "runs/lr=0.2"):
        with pytest.raises(InputError, match=f"--arm {wrong}: expected NAME=FILE"):
            named_places("--arm", [wrong])
    with pytest.raises(InputError, match=r"--arm x: given twice, a and b; NAME=FILE gives another name"):
        named_places("--arm", ["x=a", "x=b"])
