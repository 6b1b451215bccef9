"""Where the paper is: every file, test and command that the page names is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from data_prep.cli import COMMANDS as PREP_COMMANDS
from emo_lightning.cli import COMMANDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([^`]+)`", PAGE)
FILES = sorted({text for text in NAMED if re.match(r"(emo_lightning|data_prep|experiments|configs|tests)/", text)})
LINES = sorted({text for text in NAMED if text.startswith("emo ")})


@pytest.mark.parametrize("file", FILES)
def test_a_named_file_is_there(file: str) -> None:
    assert (ROOT / file).exists()


@pytest.mark.parametrize("line", LINES)
def test_a_named_command_is_there(line: str) -> None:
    _, command, *rest = shlex.split(line)
    assert command in COMMANDS
    if command == "prep":
        assert rest[0] in PREP_COMMANDS
    for word in rest:
        if word.startswith(("experiments/", "configs/")):
            assert (ROOT / word).is_file()


def test_nothing_of_the_paper_is_left_out() -> None:
    for number in (1, 2, 3, 4):
        assert f"| eq. {number} |" in PAGE
    for number in range(1, 7):
        assert re.search(rf"^\| Table {number}\b", PAGE, re.MULTILINE)
    for number in range(1, 8):
        assert re.search(rf"^\| Figure (\d, )?{number}\b", PAGE, re.MULTILINE)
