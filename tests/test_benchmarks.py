"""The benchmarks of reading run, agree on what was read, and write their ratio."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["features", "loader", "remote"])
def test_a_quick_run_writes_its_ratio(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--quick", "--json", str(tmp_path / "found.json")])
    importlib.import_module(f"benchmarks.{name}").main()
    assert json.loads((tmp_path / "found.json").read_text())["ratio"] > 0
