"""A key, and a store of annotated records, for every test of the expansion."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data_prep.expand.annotated import KEY, annotated_store


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "a-key-that-must-not-be-written")


@pytest.fixture
def root(tmp_path: Path, toys: list) -> Path:
    return annotated_store(tmp_path / "store", toys[:14])
