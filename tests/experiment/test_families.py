"""Another family of backbones: nothing but `--vars.backbone` says so, in every recipe, from round 1 to the probe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.experiment.files import ROOT
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.sampling import Sampling
from tests.experiment.test_runner import SHORT, Run, emo_run, main_output, runs  # noqa: F401 - fixtures
from tests.models.families.tiny_qwen3_5 import build_qwen3_5
from tests.models.families.tiny_qwen3_vl import build_qwen3_vl
from tests.tasks.test_grpo import data, fit, task_of
from tests.worded import worded_qwen  # noqa: F401 - fixture

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))


@pytest.fixture(scope="module")
def tiny(worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return build_qwen3_5(tmp_path_factory.mktemp("qwen35") / "model", worded_qwen, max_pixels=96 * 96)


def test_every_recipe_takes_it(tiny: Path) -> None:
    """Every stage that reads `vars.backbone` loads it as it says, and packs where it packs."""
    found: dict[str, set[str]] = {}
    kinds: dict[str, dict[str, Any]] = {}
    for path in EXPERIMENTS:
        names = yaml.safe_load(main_output(path))
        if "backbone" not in names:
            continue
        experiment = load_experiment(path, [("vars.backbone", str(tiny))])
        for stage in experiment.stages:
            model = stage.config.get("model")
            settings = model.get("backbone") if isinstance(model, dict) else None
            if isinstance(settings, dict) and settings.get("path") == str(tiny):
                found.setdefault(path.stem, set()).add(stage.name)
                kinds[json.dumps(settings, sort_keys=True)] = settings
    assert {
        "round1",
        "table6",
        "emoverse",
        "authors",
        "authors_lora",
        "des",
        "probe",
        "cross_dataset",
        "round3",
        "emo_r3",
    } <= found.keys(), found
    for settings in kinds.values():
        given = {**settings, "lora": LoRA(**settings["lora"]) if settings.get("lora") else None}
        backbone = load_backbone(BackboneConfig(**given))
        assert backbone.packs, settings
        assert backbone.model_type == "qwen3_5"


@pytest.mark.slow
def test_from_round_one_to_the_probe(emo_run: Run, tiny: Path) -> None:  # noqa: F811
    short = SHORT | {"data.num_workers": 0}
    packed = short | {"data.max_tokens": 640}
    round1 = emo_run("round1", **{"vars.backbone": tiny}, **packed) / "round1/adapter"
    round2 = emo_run("round2", **{"vars.round1": round1}, **packed) / "round2/adapter"
    config = json.loads((round2 / "adapter_config.json").read_text())
    assert "linear_attn" in json.dumps(config["target_modules"])
    des = emo_run("des", **{"vars.backbone": round2}, **short)
    probe = emo_run("probe", **{"vars.backbone": round2, "vars.head": des / "des" / "head"}, **short)
    assert "test/accuracy" in json.loads((probe / "probe/metrics.json").read_text())
    assert (probe / "probe/des.parquet").exists()


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen3_5"])
def test_round_three_too(
    family: str,
    tiny: Path,
    worded_qwen: Path,  # noqa: F811
    world_tars: Path,
    tmp_path: Path,
) -> None:
    """Of the family that `tests/tasks/test_grpo.py` does not train. What is recomputed is what was sampled."""
    model = tiny if family == "qwen3_5" else build_qwen3_vl(tmp_path / "model", worded_qwen, max_pixels=96 * 96)
    task = task_of(model, sampling=Sampling(replies=2, max_new_tokens=6))
    seen, _ = fit(task, data(world_tars, batch_size=2, limit=4), tmp_path, max_steps=1)
    (gap,) = seen.of("rollout/gap")
    assert gap <= 1e-5
