"""The house: every room has its line, and every file that a walk names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/house.md").read_text(encoding="utf-8")
ROOMS = {
    package: {p.name for p in (ROOT / package).iterdir() if p.is_dir() and (p / "__init__.py").is_file()}
    for package in ("emo_lightning", "data_prep")
}


@pytest.mark.parametrize("package", ROOMS)
def test_every_room_has_a_line(package: str) -> None:
    section = PAGE.split(f"## Rooms of {package}")[1].split("\n## ")[0]
    named = {name.removesuffix("/").split("/")[0] for name in re.findall(r"`([\w/]+/)`", section)}
    assert named == ROOMS[package]


def test_every_file_of_a_walk_is_there() -> None:
    walks = PAGE.split("## Five walks")[1].split("\n## ")[0]
    for name in re.findall(r"`([\w/]+\.py)`", walks):
        assert [p for package in ROOMS for p in (ROOT / package).rglob("*.py") if p.as_posix().endswith(f"/{name}")], name
