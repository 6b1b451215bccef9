"""A small experiment that trains in a second, and its sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.supervision import Supervision
from emo_lightning.sweep.config import SWEEP_COMMAND

PROGRAM = {
    "name": "small",
    "vars": {"features": "?", "seed": 0},
    "stages": {
        "des": {
            "run": "des",
            "defaults": ["trainer/head.yaml"],
            "seed_everything": "${vars.seed}",
            "model": {"seed": "${vars.seed}"},
            "data": {"train": "${vars.features}/train", "val": "${vars.features}/val", "batch_size": 16},
            "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "enable_progress_bar": False},
        },
    },
}


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Feature caches of four layers of width 16: train, val, test."""
    root = tmp_path_factory.mktemp("features")
    for seed, (split, count) in enumerate({"train": 48, "val": 24, "test": 24}.items()):
        generator = torch.Generator().manual_seed(seed)
        with FeatureWriter(root / split, 4, 16, torch.float32, "toy") as writer:
            for i in range(count):
                hidden = torch.randn(4, 3 + i % 4, 16, generator=generator)
                hidden[..., i % 8] += 2
                soft = [1.0 if c == i % 8 else 0.0 for c in range(8)]
                writer.append(f"{split}-{i:03}", hidden, Supervision(soft, i % 8, 5.0))
    return root


@pytest.fixture
def swept(tmp_path: Path, features: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a small experiment and its sweep; the working directory."""
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump(PROGRAM | {"vars": {"features": str(features), "seed": 0}}, sort_keys=False)
    )
    write_sweep(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_sweep(folder: Path, **changes: object) -> Path:
    """The sweep's file."""
    tree: dict[str, object] = {
        "program": "small.yaml",
        "command": SWEEP_COMMAND,
        "method": "grid",
        "metric": {"name": "des/val/accuracy", "goal": "maximize"},
        "parameters": {"des.model.head.fusion": {"values": ["none", "both"]}, "vars.seed": {"values": [0, 1]}},
    } | changes
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def results(folder: Path) -> dict[str, Any]:
    """results.json of the sweep."""
    return json.loads((folder / "runs/s/results.json").read_text())
