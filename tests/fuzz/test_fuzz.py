"""A seeded part of `python -m tests.fuzz`, a few seconds long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import run
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_no_reader_raises_anything_but_a_user_error(name: str, tmp_path: Path) -> None:
    target = TARGETS[name](tmp_path)
    for whole in target.whole:
        target.read(whole)
    found = run(target, 150, seed=1)
    assert found.foreign == []
    assert found.taken + found.refused == -(-150 // target.one_of)
