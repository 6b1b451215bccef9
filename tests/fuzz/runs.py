"""Files of run folders, caches, models and experiments, as somebody hands them over."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save

from emo_lightning.analysis.probe_predictions import read_arm
from emo_lightning.analysis.table6 import table6
from emo_lightning.core.errors import InputError
from emo_lightning.core.fingerprints import HashMemory
from emo_lightning.core.model_folders import made_of
from emo_lightning.core.model_loading import read_model_config
from emo_lightning.core.records import write_jsonl
from emo_lightning.core.weight_files import check_weight_files
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.feature_parts import read_header, read_part_index
from emo_lightning.experiment.arguments import problems
from emo_lightning.experiment.identity import inputs_of
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.status import is_complete, stage_from_folder, write_config, write_status
from emo_lightning.inference.bundle import read_bundle
from emo_lightning.models import DESHead
from emo_lightning.models.adapter_files import read_adapter
from emo_lightning.models.families import FAMILIES
from emo_lightning.models.spread import TrainingSpread
from emo_lightning.models.weights import load_network
from emo_lightning.report.build import raise_bugs
from emo_lightning.report.page import read_page
from emo_lightning.report.sections import RunSections
from emo_lightning.stages.tables import table5_stage
from emo_lightning.sweep.config import read_sweep
from emo_lightning.sweep.metrics import run_metrics
from emo_lightning.sweep.records import Run, read_run
from emo_lightning.tasks.prediction_files import PredictionFiles
from tests.data.test_features import write as write_cache
from tests.fuzz.target import Make, Target, as_json, through
from tests.made import book, make_prediction, make_record, write_tar

_ANSWER = dict.fromkeys(("description", "background", "attribute", "subject", "emotion", "intensity")) | {
    "boxes": [[1, 2, 3, 4]]
}
_TABLE = {"title": "t", "columns": ["a", "b"], "rows": [["x", {"value": 1, "low": 0, "high": 2}]], "key": "k"}
_PAGE = {"title": "p", "tables": [_TABLE], "figures": [{"title": "f", "file": "a.svg"}], "notes": ["n"]}
_SCORES = {f"{s}/{m}": 50.0 for s in ("test", "heldout") for m in ("accuracy", "precision", "recall", "f1")}


def _shown(name: str, kind: str, content: object, folder: Path) -> Target:
    """A file of a stage, as the report and the sweeps read it."""
    run = folder / "run"
    stage = run / "s"
    book(stage, kind, {"a": 1})
    (stage / "panel").mkdir()
    Image.new("RGB", (8, 8)).save(stage / "panel/0.jpg")
    np.savez(stage / "mds.npz", coords_0=np.zeros((2, 2)), labels_0=np.array(["awe", "fear"]))
    (stage / "a.svg").write_text('<svg viewBox="0 0 10 10"></svg>')
    if isinstance(content, Path):
        content = content.read_bytes()
    whole = content if isinstance(content, bytes) else as_json(content)

    def read(_: Path) -> None:
        raise_bugs(RunSections(run, samples=1).bugs)
        run_metrics(run)

    return Target(through(run / name, read), [whole], one_of=2)


def _table5(folder: Path) -> Target:
    records = [make_record(f"i{n}", [(10, 10, 60, 40)], emotion="awe", intensity=3, description="a dog") for n in range(3)]
    tar, _ = write_tar(folder / "a-000000.tar", records)
    write_jsonl(folder / "p.jsonl", [make_prediction(r.id, [(12, 12, 55, 45)], emotion="awe") for r in records])
    with contextlib.redirect_stdout(io.StringIO()):
        table5_stage(folder / "made", {"ours": folder / "p.jsonl"}, [str(tar)])
    return _shown("s/table5.json", "table5", (folder / "made/table5.json").read_bytes(), folder)


def _table6(folder: Path) -> Target:
    (folder / "probe").mkdir()
    read = through(folder / "probe/metrics.json", lambda path: table6({"a": [path.parent]}))
    return Target(read, [as_json(_SCORES)])


def _arm(folder: Path) -> Target:
    EmbeddingTable(["a"], ["awe"], ["test"], torch.ones(1, 2).numpy()).write(folder / "des.parquet")
    write_jsonl(folder / "predictions.jsonl", [make_prediction("a", emotion="awe", confidence=0.5, split="test")])
    read = through(folder / "metrics.json", lambda path: read_arm([path.parent]))
    return Target(read, [as_json({**_SCORES, "test/accuracy": 100.0})], one_of=50)


def _status(name: str, folder: Path) -> Target:
    """`stage.json` and `config.yaml` as a run that goes on reads them."""
    stage = Stage("s", "table5", "s", {"predictions": {"a": "x.jsonl"}, "references": ["a.tar"]}, folder / "s")
    (folder / "s").mkdir()
    (folder / "s/table5.json").write_text("{}")
    write_config(stage)
    write_status(stage, "complete", 0.0, inputs_of(stage))

    def read(_: Path) -> None:
        stage_from_folder(folder / "s")
        is_complete(stage)

    path = folder / "s" / name
    return Target(through(path, read), [path.read_bytes()])


def _experiment(folder: Path) -> Target:
    callback = {"class_path": "lightning.pytorch.callbacks.Timer", "init_args": {"duration": "00:01:00:00"}}
    stages = {
        "d{n}": {
            "run": "table5",
            "foreach": {"n": [1]},
            "predictions": {"a": "${vars.x}"},
            "references": ["${run.stages.e}/a"],
        },
        "e": {"run": "sft", "data": {"train": ["a"]}, "trainer": {"callbacks": [callback], "max_epochs": 1}},
    }
    text = yaml.safe_dump({"name": "n", "vars": {"x": "y"}, "stages": stages})

    def read(path: Path) -> None:
        for stage in load_experiment(path, runs=folder / "runs").stages:
            problems(stage)

    return Target(through(folder / "e.yaml", read), [text.encode()], one_of=5)


def _sweep(folder: Path) -> Target:
    (folder / "e.yaml").write_text("stages: {d: {run: mds, embeddings: {}}}\n")
    content = {
        "program": str(folder / "e.yaml"),
        "method": "random",
        "metric": {"name": "d/loss", "goal": "minimize"},
        "parameters": {"vars.n": {"values": [1, 2]}, "vars.m": {"distribution": "log_uniform_values", "min": 0.1, "max": 1.0}},
        "command": ["${env}", "emo", "sweep", "--trial", "${program}", "${args_json}"],
    }
    return Target(through(folder / "s.yaml", read_sweep), [yaml.safe_dump(content).encode()])


def _sweep_run(folder: Path) -> Target:
    Run("r", {"a.b": 1}, "emo run", metrics={"x": 1.5}).save(folder)
    path = folder / "r/sweep.json"
    return Target(through(path, lambda file: read_run(file.parent)), [path.read_bytes()])


def _about(folder: Path) -> Target:
    write_jsonl(folder / "p.jsonl", [make_prediction("a")])
    files = PredictionFiles(folder / "p.jsonl")

    def read(_: Path) -> None:
        files.begin({"model": "m", "questions": ["a"]})

    return Target(through(files.about_file, read), [as_json({"model": "m", "questions": ["a"]})])


def _cache(name: str, read: Callable[[Path], object], folder: Path) -> Target:
    write_cache(folder, range(4), part_bytes=1 << 20)
    (path,) = folder.glob(name)
    return Target(through(path, read), [path.read_bytes()])


def _hashes(folder: Path) -> Target:
    return Target(
        through(folder / "h.json", lambda path: HashMemory().keep_in(path)), [as_json({"sha256 /a": [1, 2, 3, "a" * 64]})]
    )


def _adapter(folder: Path) -> Target:
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "x",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "bias": "none",
        "rank_pattern": {},
        "modules_to_save": None,
        "layers_to_transform": [1],
        "init_lora_weights": True,
        "task_type": None,
    }
    weights = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 8)}
    (folder / "adapter_model.safetensors").write_bytes(save(weights))
    family = FAMILIES["qwen2_5_vl"]
    return Target(through(folder / "adapter_config.json", lambda path: read_adapter(path.parent, family)), [as_json(config)])


def _model_config(folder: Path) -> Target:
    config = {"model_type": "qwen2_5_vl", "hidden_size": 8, "vision_config": {"depth": 2}}
    return Target(through(folder / "config.json", lambda path: read_model_config(path.parent, InputError)), [as_json(config)])


def _weights_index(folder: Path) -> Target:
    (folder / "a.safetensors").write_bytes(save({"a": torch.ones(2)}))
    index = {"metadata": {"total_size": 8}, "weight_map": {"a": "a.safetensors"}}
    return Target(
        through(folder / "model.safetensors.index.json", lambda path: check_weight_files(path.parent)), [as_json(index)]
    )


def _head(folder: Path) -> Target:
    DESHead(8).save_pretrained(folder)
    path = folder / "config.json"
    return Target(through(path, lambda file: load_network(DESHead, file.parent)), [path.read_bytes()], one_of=2)


def _spread(folder: Path) -> Target:
    TrainingSpread(4, 3, 5, 2, 2, 40, 20, 0.05, 1.5).save_pretrained(folder)
    path = folder / "config.json"
    return Target(through(path, lambda file: load_network(TrainingSpread, file.parent)), [path.read_bytes()], one_of=2)


def _bundle(folder: Path) -> Target:
    said = {
        "backbone": "b",
        "head": "h",
        "probe": None,
        "features": "emotion",
        "questions": ["emotion"],
        "made_of": {"head": "a"},
        "spread": None,
    }
    return Target(through(folder / "emo.json", lambda path: read_bundle(path.parent)), [as_json(said)])


def _csv() -> bytes:
    return b"epoch,step,train/loss,val/loss\n0,1,2.0,\n0,2,1.5,1.7\n1,4,nan,1.2\n"


def _panel() -> dict[str, Any]:
    item = {
        "id": "a",
        "image": "panel/0.jpg",
        "size": [8, 8],
        "split": "test",
        "truth": _ANSWER,
        "predictions": {"ours": _ANSWER},
    }
    return {"arms": ["ours"], "seed": 0, "of": 1, "items": [item]}


_TRAINING = {
    "seed": 3,
    "steps": 10,
    "devices": 1,
    "trained_parameters": 100,
    "step": {"ranks": 1, "accumulate": 2, "rows": 4},
    "perf": {"tokens_per_s": 10.5, "images_per_s": 2.0, "fill": 0.9, "data_wait": 0.1},
    "images": {"train": 4, "val": 2},
    "skipped": {"train": 1},
    "labels": {"train": {"emotion": 4}},
    "remarks": ["train: no record has emotion_scores"],
    "unreadable": {"a": "broken"},
}
_STAGE = {
    "stage": "s",
    "kind": "probe",
    "status": "complete",
    "started": "2026-01-01T00:00:00+00:00",
    "seconds": 1.0,
    "commit": "abc1234",
    "command": "emo run a",
    "config_sha256": "f" * 64,
    "inputs": {"a": "b"},
    "title": "t",
}
_PREP = {"images": 24, "emotions": {"awe": 3}, "discarded": ["a", "b"], "cost": {"usd": 1.5, "by": {"m": 1}}}
_MAP = {
    "points": 2,
    "available": 2,
    "splits": {"test": 2},
    "without_emotion": 1,
    "stress": 0.1,
    "silhouette_des": None,
    "silhouette_2d": None,
    "knn_purity_des": 0.5,
    "knn_purity_2d": 0.5,
    "k": 1,
}
_MEAN = {"mean": 5.0, "std": None, "values": [5.0]}
_PROBES = {"test": dict.fromkeys(("accuracy", "precision", "recall", "f1"), _MEAN)}
_PAIR = {"a": "a", "b": "b", "accuracy": {"difference": 1.0, "images": [-1.0, 2.0]}}
_TABLE6 = {
    "arms": {"a": _PROBES, "b": _PROBES},
    "seeds": {"a": 1, "b": 1},
    "paired": {"sets": {"test": {"images": 2, "pairs": [_PAIR]}}},
}

RUNS: dict[str, Make] = {
    "page.json": lambda folder: Target(through(folder / "page.json", read_page), [as_json(_PAGE)]),
    "stage's page": partial(_shown, "s/page.json", "calibration", _PAGE),
    "stage.json": partial(_shown, "s/stage.json", "probe", _STAGE),
    "config.yaml": partial(_shown, "s/config.yaml", "sft", yaml.safe_dump({"run": "sft", "data": {"train": ["a"]}}).encode()),
    "experiment.yaml": partial(_shown, "experiment.yaml", "sft", b"dir: runs/a\nstages: {}\n"),
    "training.json": partial(_shown, "s/training.json", "sft", _TRAINING),
    "metrics.csv": partial(_shown, "s/logs/version_0/metrics.csv", "des", _csv()),
    "panel.json": partial(_shown, "s/panel.json", "panel", _panel()),
    "prep.json": partial(_shown, "s/prep.json", "prep", _PREP),
    "mds.json": partial(_shown, "s/mds.json", "mds", {"arms": {"a": _MAP}}),
    "table6.json": partial(_shown, "s/table6.json", "table6", _TABLE6),
    "table5.json": _table5,
    "probe's metrics": _table6,
    "probe's metrics, paired": _arm,
    "stage.json, resumed": partial(_status, "stage.json"),
    "config.yaml, resumed": partial(_status, "config.yaml"),
    "experiment": _experiment,
    "sweep": _sweep,
    "sweep's run": _sweep_run,
    "predictions, about": _about,
    "cache, part": partial(_cache, "part-*.safetensors", read_header),
    "cache, index": partial(_cache, "index-*.json", read_part_index),
    "hashes": _hashes,
    "adapter": _adapter,
    "model's config": _model_config,
    "weights, index": _weights_index,
    "DES head": _head,
    "spread": _spread,
    "bundle": _bundle,
    "made_of.json": lambda folder: Target(
        through(folder / "made_of.json", lambda path: made_of(path.parent)), [as_json({"backbone": "a" * 64})]
    ),
}
