"""Where the paper is: every file, test and command that the page names is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
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


def rows() -> Iterator[dict[str, str]]:
    """Of every table, by the heads of its columns."""
    for section in PAGE.split("\n## ")[1:]:
        lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
        for cells in lines[1:]:
            yield dict(zip(lines[0], cells, strict=True))


ROWS = [row for row in rows() if "its page is missing from the copy" not in row["code"]]


@pytest.mark.parametrize("row", ROWS, ids=[next(iter(row.values()))[:30] for row in ROWS])
def test_every_row_has_its_file_its_command_and_its_test(row: dict[str, str]) -> None:
    assert re.search(r"`(emo_lightning|data_prep|experiments)/[^`]+`", row["code"])
    assert re.search(r"`emo [^`]+`", row["command"])
    assert re.search(r"`tests/[^`]+`", row["test"])


def test_rows_are_read() -> None:
    assert len(ROWS) >= 30, "else the form of the page has changed"
