"""What `emo demo` says at its end works as printed, as far as that shows without running a demo."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from emo_lightning.cli import main
from emo_lightning.commands import demo, run
from emo_lightning.core.files import read_yaml
from emo_lightning.core.records import SchemaError
from emo_lightning.experiment.files import ROOT


def test_names_of_the_runs_are_those_of_the_experiments() -> None:
    for experiment, name in demo.RUN_NAMES.items():
        assert read_yaml(ROOT / "experiments" / f"{experiment}.yaml", SchemaError)["name"] == name


def test_four_lines_with_a_command_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = demo.next_steps(tmp_path / "runs" / "a demo", fast=True)
    commands = [shlex.split(line.partition(":")[2]) for line in lines]
    assert [words[1] for words in commands] == ["serve", "explain", "prep", "demo"]
    serve, explained, imported, trained = commands
    assert serve[2] == str(tmp_path / "runs" / "a demo" / "model")
    assert explained[3:] == ["--text", "--model", serve[2]]
    given = run.parse([w for w in ["x.yaml", *trained[2:]] if w != "--fast"])
    assert (given.name, given.runs) == ("mine", str(tmp_path / "runs"))
    assert dict(given.overrides)["vars.tars"].endswith("world/tars")
    # A folder with the panel's pictures is imported as a folder of photographs is.
    from PIL import Image

    Path(imported[4]).mkdir(parents=True)
    for n in range(2):
        Image.new("RGB", (32, 24), (9, 90, 60 * n)).save(Path(imported[4]) / f"{n:02d}.jpg")
        (Path(imported[4]) / f"{n:02d}.pdf").write_bytes(b"%PDF-1.4")
    assert main(imported[1:]) == 0
    assert "added 2" in capsys.readouterr().out


def test_from_scratch_makes_the_base_first_and_starts_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which runs there are, and what the second takes of the first; the first itself takes an hour."""
    told: list[list[str]] = []
    ends = iter([0, 3, 2])

    def note(words: list[str]) -> int:
        told.append(words)
        return next(ends)

    monkeypatch.setattr(run, "main", note)
    given = ["--from-scratch", "--fast", "--runs", str(tmp_path), "--vars.seed", "4"]
    assert demo.main(given) == 3
    first, second = (run.parse(words) for words in told)
    assert Path(first.experiment) == ROOT / "experiments/tiny_base.yaml"
    assert first.overrides == []
    assert Path(second.experiment) == ROOT / "experiments/demo_fast.yaml"
    changes = dict(second.overrides)
    assert changes == {"vars.seed": "4", "vars.base": str(tmp_path / "tiny-base/card/model")}
    # The folder that the recipe's last stage writes.
    base = read_yaml(ROOT / "experiments/tiny_base.yaml", SchemaError)
    assert base["name"] == "tiny-base"
    assert list(base["stages"])[-1] == "card"
    # Without a base there is no demo.
    assert demo.main(given) == 2
    assert len(told) == 3
    # What only looks does not train for an hour first.
    ends = iter([0, 0])
    for words in (["--print_config"], ["--only", "table5"]):
        assert demo.main([*given, *words]) == 0
        assert Path(run.parse(told[-1]).experiment) == ROOT / "experiments/demo_fast.yaml"
    assert len(told) == 5
