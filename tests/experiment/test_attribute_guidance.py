"""`experiments/attribute_guidance.yaml` with one base, one world and a step of each training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.models.tiny import TinyQwen
from emo_lightning.stages.tiny_models import tiny_qwen_stage

FEW = {
    "bases": "[quarter]",
    "images": "[400]",
    "seeds": "[0]",
    "pictures": "48",
    "base_steps": "1",
    "attribute_steps": "{'400': 1}",
    "emotion_steps": "{'400': 1}",
    "des_epochs": "{'400': 1}",
    "probe_epochs": "2",
    "val": "8",
    "heldout": "24",
}


def test_the_experiment(tmp_path: Path) -> None:
    words = [word for name, value in FEW.items() for word in (f"--vars.{name}", value)]
    words += ["--train-400-0.count", "24", "--affective.count", "64", "--neutral.count", "64"]
    assert main(["run", "experiments/attribute_guidance.yaml", "--runs", str(tmp_path), *words]) == 0
    run = tmp_path / "attribute-guidance"
    result = json.loads((run / "guidance" / "attribute_guidance.json").read_text())
    (base,) = result["bases"]
    for arm in ("base", "ces", "attribute"):
        said = json.loads((run / f"probe-{arm}-quarter-400-0" / "metrics.json").read_text())
        assert base["accuracy"][arm]["values"] == [said["heldout/accuracy"]]
    assert (base["share"], result["trend"]) == (0.25, None)
    assert "What guidance adds" in (run / "report.html").read_text()
    tower = {
        name: [
            load_file(run / stage / "model" / "model.safetensors")[name].float()
            for stage in ("init", "base-quarter", "attribute-quarter-400-0")
        ]
        for name in load_file(run / "init" / "model" / "model.safetensors")
        if "visual.blocks" in name
    }
    assert tower
    assert all(torch.equal(start, end) for start, *ends in tower.values() for end in ends)


def test_a_tower_of_another_size_is_refused(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tower .*; the model that is made has"):
        tiny_qwen_stage(tmp_path, [str(world_tars)], TinyQwen(), tower=str(tiny_qwen))
