"""The tables of the reference that are written by hand: commands, kinds of stages with their keys, experiments."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.cli import COMMANDS as PREP_COMMANDS
from emo_lightning.cli import COMMANDS
from emo_lightning.experiment.kinds import STAGE_KINDS, TrainerKind

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs/reference"


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the others, of the table below a heading."""
    text = (REFERENCE / page).read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip("`"): cells[1:] for cells in ([c.strip() for c in line[1:-1].split(" | ")] for line in lines)}


@pytest.mark.parametrize(("heading", "commands"), [("emo", COMMANDS), ("emo prep", PREP_COMMANDS)])
def test_every_command_has_its_line(heading: str, commands: dict[str, tuple[str, str]]) -> None:
    expected = {f"{heading} {name}": [text] for name, (_, text) in commands.items()}
    assert rows("commands.md", heading) == expected


def test_the_page_ends_with_the_help_of_every_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs")
    text = importlib.import_module("hooks").all_help()
    names = [f"emo {name}" for name in COMMANDS if name != "prep"] + [f"emo prep {name}" for name in PREP_COMMANDS]
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == names
    assert len(re.findall(r"^```text\nusage: (?:emo|lightning run) ", text, re.MULTILINE)) == len(names)


def keys(called: Callable[..., object]) -> str:
    """Its arguments as the table shows them; the runner gives `out`."""
    parameters = [p for p in inspect.signature(called).parameters.values() if p.name not in ("self", "out")]
    return ", ".join(f"**`{p.name}`**" if p.default is p.empty else f"`{p.name}`" for p in parameters)


@pytest.mark.parametrize("name", STAGE_KINDS)
def test_every_kind_has_its_keys(name: str) -> None:
    kind = STAGE_KINDS[name]
    shown = rows("experiments.md", "Kinds of stages")[name][1]
    if isinstance(kind, TrainerKind):
        assert shown == f"`model`: {keys(kind.task_class())}<br>`data`: {keys(kind.data_class())}"
    else:
        assert shown == keys(kind.function())


def test_no_kind_is_made_up() -> None:
    assert list(rows("experiments.md", "Kinds of stages")) == list(STAGE_KINDS)


def listed(folder: str) -> set[str]:
    """Names in the table of a folder's files."""
    page = (REFERENCE / "experiments.md").read_text(encoding="utf-8")
    table = page.split(f"| file in `{folder}/` |")[1].split("\n\n")[0]
    return {name for line in table.splitlines() if line for name in re.findall(r"`(\w+\.yaml)`", line.split("|")[1])}


def test_every_experiment_is_listed() -> None:
    assert listed("experiments") == {path.name for path in (ROOT / "experiments").glob("*.yaml")}


def test_every_sweep_that_is_listed_is_there() -> None:
    assert listed("experiments/sweeps") <= {path.name for path in (ROOT / "experiments/sweeps").glob("*.yaml")}
