"""Small records, real tars and a real (untrained) CLIP, all made on the spot."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml
from PIL import Image

from emo_lightning.core.records import EMOTIONS, GroundedObject, PredictedObject, Prediction, Record, write_jsonl

if TYPE_CHECKING:
    from emo_lightning.models.backbone import Backbone

WORDS = ["a", "red", "dog", "cat", "runs", "on", "the", "beach", "storm", "child", "cries", "in", "room"]


def make_record(identity: str, boxes: list[tuple[float, float, float, float]] | None = None, **fields: object) -> Record:
    objects = [GroundedObject(phrase="dog", bbox=b, score=1.0, primary=True) for b in boxes or []]
    given = {
        "source": "made",
        "width": 100,
        "height": 50,
        "sha256": hashlib.sha256(identity.encode()).hexdigest(),
        "split": "test",
        **fields,
    }
    return Record.model_validate({"id": identity, "objects": objects, **given})


def make_prediction(
    identity: str, boxes: list[tuple[float, float, float, float]] | None = None, **fields: object
) -> Prediction:
    return Prediction.model_validate({"id": identity, "objects": [PredictedObject(bbox=b) for b in boxes or []], **fields})


def as_json(result: Mapping[str, object]) -> dict[str, Any]:
    """What stands in the file that a result is written to; one that is no strict JSON is refused."""
    value: dict[str, Any] = json.loads(json.dumps(result, allow_nan=False))
    return value


def stir_adapters(backbone: Backbone, std: float) -> None:
    """Have its LoRA adapters change what it says: their B matrices, zero at the beginning, become random."""
    import torch

    with torch.no_grad():
        for _, name, parameter in backbone.parameter_groups():
            if "lora_B" in name:
                parameter.normal_(std=std)


def write_two_stages(folder: Path) -> Path:
    """An experiment of two stages without a training, of which the second reads the first."""
    path = folder / "two.yaml"
    path.write_text(
        "name: two\n"
        "stages:\n"
        "  first: {run: world_tars, split: train, count: 2}\n"
        '  second: {run: tiny_clip, tars: ["${run.stages.first}"]}\n'
    )
    return path


def write_world(folder: Path, **splits: int) -> Path:
    """Tars of the drawn world, labelled with the truth, twelve images each; returns their folder.

    Args:
        folder: to write to.
        **splits: split -> images.
    """
    from data_prep.demo.world import World
    from data_prep.export import write_shards

    world = World(seed=0)
    samples = [s for split, n in splits.items() for s in world.samples(split, n)]
    write_shards(((s.truth, s.image, s.extension) for s in samples), folder, "world", 12)
    return folder


def make_qwen(folder: Path, tars: Path, side: int = 84) -> Path:
    """A random Qwen2.5-VL in the true architecture, small: 4 layers of width 64, vision 32 wide and 2 deep; returns its folder."""
    from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of

    words = words_of([str(tars)])
    sizes = TinyQwen(hidden_size=64, layers=4, heads=4, vision_hidden=32, vision_layers=2, vocabulary=900)
    return build_qwen(folder, words, sizes, max_pixels=side * side, seed=0)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **small,
            "vocab_size": len(vocabulary),
            "max_position_embeddings": 12,
            "pad_token_id": 0,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[[list[Record]], tuple[Path, list[Record]]]:
    """Records -> a tar with a noise image for each, and the records as they stand in it (sha256 of that image)."""

    return lambda records: write_tar(tmp_path / "set-000000.tar", records)


def write_tar(path: Path, records: list[Record]) -> tuple[Path, list[Record]]:
    """A noise image for each record; returns the records as they stand in the tar (sha256 of that image)."""
    written = []
    with tarfile.open(path, "w") as tar:
        for n, record in enumerate(records):
            pixels = np.random.default_rng(n).integers(0, 255, (record.height, record.width, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            record = record.model_copy(update={"sha256": hashlib.sha256(buffer.getvalue()).hexdigest()})
            written.append(record)
            for name, data in ((f"{record.id}.json", record.to_json()), (f"{record.id}.png", buffer.getvalue())):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path, written


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose every figure is computed from small data by the real stages. Copy it to change it."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from emo_lightning.stages.figures import mds_stage, panel_stage
    from emo_lightning.stages.tables import table5_stage, table6_stage

    home = tmp_path_factory.mktemp("finished")
    run = home / "runs" / "small & <odd>"
    records = [
        make_record(
            f"img{n}",
            [(10, 10, 60, 40)],
            emotion=EMOTIONS[n % 8],
            intensity=n % 10 + 1,
            description="a dog <on> the beach",
            background="beach",
            attribute="runs",
            subject="dog",
        )
        for n in range(24)
    ]
    (home / "data").mkdir()
    tar, records = write_tar(home / "data" / "set-000000.tar", records)
    (home / "data" / "manifest.json").write_text('{"schema_version": 1, "shards": [{"file": "set-000000.tar"}]}')
    said = [
        make_prediction(
            r.id,
            [(12, 12, 55, 45)],
            emotion=r.emotion if n % 2 else "awe",
            intensity=4,
            subject="<b>cat</b>",
            sha256=r.sha256,
        )
        for n, r in enumerate(records)
    ]
    run.mkdir(parents=True)
    (run / "experiment.yaml").write_text(json.dumps({"name": run.name, "dir": str(run)}))
    write_jsonl(run / "base.jsonl", said[:20])
    write_jsonl(run / "ours.jsonl", said)
    arms = {"base": run / "base.jsonl", "ours": run / "ours.jsonl"}
    vectors = np.random.default_rng(0).normal(size=(24, 16)).astype("float32")
    columns = {"id": [r.id for r in records], "emotion": [str(r.emotion) for r in records], "split": ["test"] * 24}
    parquet.write_table(pa.table({**columns, "des": list(vectors)}), home / "des.parquet")
    probe = run / "probe-0"
    (probe / "csv").mkdir(parents=True)
    scores = {f"{s}/{m}": 50.0 for s in ("test", "heldout") for m in ("accuracy", "precision", "recall", "f1")}
    (probe / "metrics.json").write_text(json.dumps(scores))
    (probe / "csv" / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,1,2.0,\n0,2,1.5,1.7\n1,4,nan,1.2\n")
    book(probe, "probe", {"note": "<script>"}, status="failed", seconds=71.0)
    named = {arm: str(path) for arm, path in arms.items()}
    table5_stage(run / "table5", arms, [str(tar)])
    book(run / "table5", "table5", {"predictions": named, "references": [str(home / "data")]})
    panel_stage(run / "panel", arms, [str(tar)], count=3, seed=1)
    mds_stage(run / "mds", {"base": home / "des.parquet"})
    table6_stage(run / "table6", {"base": [probe]})
    book(run / "table6", "table6", {"probes": {"base": [str(probe)]}})
    (run / "prep").mkdir()
    (run / "prep" / "prep.json").write_text(json.dumps({"images": 24, "emotions": {"awe": 3}, "discarded": ["img9", "img8"]}))
    return run


def book(stage: Path, kind: str, settings: dict[str, Any], status: str = "complete", seconds: float = 1.0) -> None:
    """What the runner notes of a stage."""
    info = {
        "stage": stage.name,
        "kind": kind,
        "status": status,
        "started": "2026-01-01T00:00:00+00:00",
        "seconds": seconds,
        "commit": "abc1234",
        "command": f"emo run small.yaml --only {stage.name}",
        "config_sha256": "f" * 64,
    }
    stage.mkdir(parents=True, exist_ok=True)
    (stage / "stage.json").write_text(json.dumps(info))
    (stage / "config.yaml").write_text(yaml.safe_dump({"run": kind, **settings}))
