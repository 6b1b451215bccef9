"""The experiments of round 3, small: every stage, and the settings of the one for GPUs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from emo_lightning.cli import main
from emo_lightning.data.chat import OBJECTIVES
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.arguments import check
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.reply_rows import with_replies
from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of
from emo_lightning.sweep.metrics import promised, run_metrics
from tests.ranks import run_ranks
from tests.worded import worded_qwen  # noqa: F401 - fixture

ROOT = Path(__file__).parents[2]
KEPT = {"seed": [0], "arm": ("hard", "near")}


def small(folder: Path) -> Path:
    """The same stages, of one seed and one arm of each sort."""
    tree: dict[str, Any] = yaml.safe_load((ROOT / "experiments/round3.yaml").read_text(encoding="utf-8"))
    # The same as `rl-near`, but for where it begins: it is checked below.
    del tree["stages"]["rl-direct-{seed}"]
    for stage in tree["stages"].values():
        if "foreach" in stage:
            stage["foreach"] = {key: [one for one in values if one in KEPT[key]] for key, values in stage["foreach"].items()}
        if isinstance(stage.get("predictions"), dict):
            kept = ("base", "round2", "sft", "near")
            stage["predictions"] = {
                arm: path[:1] if isinstance(path, list) else path for arm, path in stage["predictions"].items() if arm in kept
            }
    path = folder / "round3.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


@pytest.mark.slow
def test_round3_runs(worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    sets = {split: [f"{world_tars}/*-{split}-*.tar"] for split in ("train", "val", "test")}
    changes: dict[str, object] = {
        "vars.backbone": worded_qwen,
        "vars.tars": world_tars,
        "vars.reference": world_tars,
        "vars.dusk": tmp_path / "none",
        "trainer.enable_progress_bar": "false",
        "model.max_new_tokens": 8,
        "data.num_workers": 0,
    }
    for stage in ("round2-0", "sft-hard-0", "rl-near-0"):
        changes |= {f"{stage}.trainer.max_steps": 2, f"{stage}.trainer.log_every_n_steps": 1}
    few = {"others.dusk": sets["test"], "batch_size": 4, "limit": 8}
    changes |= {f"rl-near-0.data.{key}": value for key, value in few.items()} | {"rl-near-0.model.sampling.replies": 2}
    for stage in ("predict-base", "predict-round2-0", "predict-sft-hard-0", "predict-rl-near-0"):
        changes |= {f"{stage}.data.sets": json.dumps({"val": sets["val"], "test": sets["test"]})}
    for stage in ("cross_dataset-0", "against_sft-0", "across_seeds"):
        changes |= {f"{stage}.sets": json.dumps({"test": {"references": sets["test"]}}), f"{stage}.trained_on": sets["train"]}
    changes["calibration-0.sets"] = json.dumps({"val": sets["val"], "test": sets["test"]})
    words = [part for key, value in changes.items() for part in (f"--{key}", str(value))]
    assert main(["run", str(small(tmp_path)), "--runs", str(tmp_path / "runs"), *words]) == 0
    run = tmp_path / "runs/round3"
    result = json.loads((run / "against_sft-0/cross_dataset.json").read_text(encoding="utf-8"))
    assert set(result["arms"]) == {"base", "round2", "sft", "near"}
    assert "gain" in result["arms"]["near"]["test"]
    over_seeds = json.loads((run / "across_seeds/across_seeds.json").read_text(encoding="utf-8"))
    near, alone = over_seeds["arms"]["near"]["test"], result["arms"]["near"]["test"]
    assert near["accuracy"]["values"] == [alone["accuracy"]["value"]]
    assert near["gains"]["sft"]["values"] == [pytest.approx(alone["gain"]["difference"])]
    assert (run / "rl-near-0/model/config.json").exists()
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "What learning from rewards gained and lost" in report
    assert "rl-near-0, val" in report
    # What a sweep may order its runs by.
    trained = next(one for one in load_experiment(small(tmp_path)).stages if one.name == "rl-near-0")
    names, others = promised(trained)
    assert others
    assert set(names) <= run_metrics(run).keys()


def paths_in(tree: object) -> set[str]:
    """Texts of a configuration that begin with a folder of runs."""
    if isinstance(tree, Mapping):
        return set().union(*map(paths_in, tree.values()))
    if isinstance(tree, list):
        return set().union(*map(paths_in, tree))
    return {tree} if isinstance(tree, str) and tree.startswith("runs/") else set()


def test_what_it_begins_with_is_what_the_experiments_before_it_make() -> None:
    """Every path of `runs/demo` and `runs/demo-cross` is one that those read from stages of their own, by the same names."""
    made: set[str] = set()
    stages: dict[str, str] = {}
    for name in ("demo", "demo_cross"):
        before = load_experiment(ROOT / f"experiments/{name}.yaml")
        made |= paths_in([stage.config for stage in before.stages])
        stages |= {str(stage.out): stage.kind for stage in before.stages}
    own = [stage.config for stage in load_experiment(ROOT / "experiments/round3.yaml").stages]
    taken = {path for path in paths_in(own) if not path.startswith("runs/round3")}
    assert {"runs/demo-cross/base/model", "runs/demo-cross/dusk/*.tar", "runs/demo-cross/dusk_train/*.tar"} <= taken
    assert taken <= made
    kinds = {"/".join(path.split("/")[:3]): path for path in taken}
    assert {folder: stages.get(folder) for folder in kinds} == {
        "runs/demo/world": "world",
        "runs/demo-cross/base": "sft",
        "runs/demo-cross/dusk": "world_tars",
        "runs/demo-cross/dusk_train": "world_tars",
    }


def exit_with(arguments: list[str]) -> None:
    """The command as a process has it."""
    raise SystemExit(main(arguments))


@pytest.mark.slow
def test_two_ranks_run_a_stage_of_rewards(worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    """`emo run` as torchrun starts it: one model, one log, and a complete stage."""
    tree = yaml.safe_load((ROOT / "experiments/round3.yaml").read_text(encoding="utf-8"))
    stage = tree["stages"]["rl-{arm}-{seed}"]
    del stage["foreach"]
    path = tmp_path / "two.yaml"
    text = yaml.safe_dump({"name": "two", "vars": tree["vars"], "stages": {"round3": stage}}, sort_keys=False)
    path.write_text(text.replace("${each.seed}", "0").replace("${each.arm}", "grpo"), encoding="utf-8")
    changes: dict[str, object] = {
        "model.backbone.path": worded_qwen,
        "model.zero_shot": worded_qwen,
        "model.grpo.algorithm": "dapo",
        "model.rewards": json.dumps({"emotion": 1.0, "intensity": 0.1, "format": 0.1}),
        "model.sampling": json.dumps({"replies": 2, "max_new_tokens": 6}),
        "data.train": json.dumps([f"{world_tars}/*-train-*.tar"]),
        "data.val": json.dumps([f"{world_tars}/*-val-*.tar"]),
        "data.others": json.dumps({"dusk": [f"{world_tars}/*-test-*.tar"]}),
        "data.batch_size": 2,
        "data.limit": 8,
        "data.num_workers": 0,
        "trainer.devices": 2,
        "trainer.strategy": "ddp",
        "trainer.max_epochs": 1,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
    }
    words = [part for key, value in changes.items() for part in (f"--round3.{key}", str(value))]
    run_ranks(partial(exit_with, ["run", str(path), "--runs", str(tmp_path / "runs"), *words]))
    out = tmp_path / "runs/two/round3"
    assert json.loads((out / "stage.json").read_text(encoding="utf-8"))["status"] == "complete"
    found = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert (found["devices"], found["steps"]) == (2, 2)
    assert found["answered"]["dusk"]["zero_shot_gain"] == found["answered"]["dusk"]["gain"]
    assert (out / "model/config.json").exists()


def test_arms_cost_as_much(world_tars: Path, tmp_path: Path) -> None:
    """Floating-point operations of all epochs, of fine-tuning and of rewards, on the demo's model."""
    words = words_of([str(world_tars)])
    path = build_qwen(tmp_path / "model", [*words, *(f" {word}" for word in words)], TinyQwen(), max_pixels=112 * 112)
    backbone = load_backbone(BackboneConfig(str(path), tuning="full", train_vision=True))
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    answers = Collator(backbone.processor, backbone.model_type, answers=True, packed=True)
    asked = Collator(backbone.processor, backbone.model_type, answers=False, packed=True)
    records = [index.sample(row) for row in range(8)]
    keys = OBJECTIVES["emotion"].keys
    tuned = answers([ImageQuestion(record.id, image, keys, record) for record, image in records])
    questions = asked([ImageQuestion(record.id, image, keys) for record, image in records])
    each, length = 8, len(tuned["answer_at"]) // 8
    row = with_replies(questions, [torch.full((length,), 20)] * (8 * each)).row
    products = backbone.family.products(backbone.base)
    text = backbone.base.config.get_text_config()
    head = 2.0 * text.vocab_size * text.hidden_size * 8 * each * length

    def forward(batch: Mapping[str, Any]) -> float:
        parts = backbone.family.work(backbone.base, products, batch, batch["lengths"]).values()
        return sum(part.weights + part.attention for part in parts)

    drawn = forward(questions) + 2.0 * products["language"] * 8 * each * length + head
    rewarded = drawn + 4 * (forward(row) + head)
    names = yaml.safe_load((ROOT / "experiments/round3.yaml").read_text(encoding="utf-8"))["vars"]
    whole = rewarded * names["grpo_epochs"], backbone.step_flops(tuned, tuned["lengths"]) * names["sft_epochs"]
    assert whole[0] == pytest.approx(whole[1], rel=0.1)


def test_the_published_recipe_is_as_published() -> None:
    experiment = load_experiment(ROOT / "experiments/emo_r3.yaml")
    (stage,) = experiment.stages
    data, trained = stage.config["data"], stage.config["trainer"]
    update = data["batch_size"] * trained["accumulate_grad_batches"] * trained["devices"]
    assert update == 256
    assert update * stage.config["model"]["grpo"]["sample_every"] == 512
    # About 80 rollouts.
    assert 75 < trained["max_epochs"] * data["limit"] / 512 < 85


@pytest.mark.parametrize("key", ["grpo.klweight", "rewards.emotoin", "sampling.top_p"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    (stage,) = load_experiment(ROOT / "experiments/emo_r3.yaml", [(f"round3.model.{key}", "1")]).stages
    with pytest.raises(ExperimentError, match=rf"stage 'round3' \(grpo\): .*{key.partition('.')[2]}"):
        check(stage)


def test_the_shipped_settings_are_understood() -> None:
    stages = [one for name in ("round3", "emo_r3") for one in load_experiment(ROOT / f"experiments/{name}.yaml").stages]
    # Of each arm one seed.
    for stage in (one for one in stages if one.name in ("round3", "rl-direct-0")):
        check(stage)
