"""Nothing of an annotation reaches a model's input: with all labels changed at random, what the model makes stays the same to the bit."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch

from emo_lightning.cli import main
from emo_lightning.core.records import EMOTIONS, GroundedObject, Record, intensity_level
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.labelled import LabelledCollator, LabelledDataset
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.families.places import PatchPlaces
from tests.data_prep.serving import completion, send, server
from tests.worded import worded_qwen  # noqa: F401 - fixture

LABELS = (
    "description",
    "background",
    "attribute",
    "subject",
    "emotion",
    "emotion_scores",
    "confidence",
    "intensity",
    "intensity_level",
    "objects",
    "des",
    "provenance",
)
"""Every field that says something of the image's content or feeling; the others say which image it is."""


def scrambled(record: Record, rng: random.Random) -> Record:
    """The same image with another annotation in every field."""
    words = [rng.choice(["storm", "cat", "a quiet lake", "fear", "awe"]) + f" {rng.random():.6f}" for _ in range(4)]
    weights = [rng.random() for _ in EMOTIONS]
    intensity = rng.choice([i for i in range(1, 11) if intensity_level(i) != record.intensity_level])
    x, y = rng.uniform(0, record.width / 2), rng.uniform(0, record.height / 2)
    box = (x, y, x + record.width / 3, y + record.height / 3)
    return record.model_copy(
        update={
            **dict(zip(("description", "background", "attribute", "subject"), words, strict=True)),
            "emotion": rng.choice([e for e in EMOTIONS if e is not record.emotion]),
            "emotion_scores": {e: w / sum(weights) for e, w in zip(EMOTIONS, weights, strict=True)},
            "confidence": rng.random(),
            "intensity": intensity,
            "intensity_level": intensity_level(intensity),
            "objects": [GroundedObject(phrase=words[0], bbox=box, score=rng.random(), primary=True)],
            "des": [rng.gauss(0, 1) for _ in range(32)],
            "provenance": {"note": words[1]},
        }
    )


@pytest.fixture(scope="module")
def pair(world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Tars with the truth, and with the same images under other labels."""
    from data_prep.export import write_shards

    index, rng = TarIndex.open(f"{world_tars}/*-test-*.tar"), random.Random(5)
    folder = tmp_path_factory.mktemp("scrambled")
    rows = []
    for row in range(len(index)):
        true = index.record(row)
        false = scrambled(true, rng)
        Record.from_json(false.to_json(), "scrambled")
        for name in Record.model_fields:
            assert (getattr(true, name) != getattr(false, name)) == (name in LABELS), name
        rows.append((false, *index.image_bytes(row)))
    write_shards(iter(rows), folder, "world", 12)  # cut as the others are: batches must be the same
    return f"{world_tars}/*-test-*.tar", f"{folder}/*.tar"


def run_both(pair: tuple[str, str], folder: Path, kind: str, model: str, data: str) -> list[Path]:
    """A stage of that kind on both sets of tars, through the command line; the stages' folders."""
    found = []
    for name, tars in zip(("kept", "changed"), pair, strict=True):
        path = folder / f"{name}.yaml"
        path.write_text(
            f"name: {name}\nstages:\n  stage:\n    run: {kind}\n    defaults: [trainer/inference.yaml]\n    model: {model}\n"
            f"    data: {{sets: {{test: ['{tars}']}}, batch_size: 3, {data}}}\n"
            "    trainer: {accelerator: cpu, devices: 1, enable_progress_bar: false}\n"
        )
        assert main(["run", str(path), "--runs", str(folder / "runs")]) == 0
        found.append(folder / "runs" / name / "stage")
    return found


def test_features(pair: tuple[str, str], tiny_qwen: Path, tmp_path: Path) -> None:
    folders = run_both(pair, tmp_path, "features", f"{{backbone: {{path: '{tiny_qwen}'}}}}", "objectives: [emotion]")
    true, false = (FeatureCache(folder / "test") for folder in folders)
    assert true.keys == false.keys
    for row in range(len(true)):
        assert torch.equal(true[row].hidden, false[row].hidden)
        assert true.labels(row).emotion != false.labels(row).emotion, "the labels beside the features did change"


def test_predictions(pair: tuple[str, str], worded_qwen: Path, tmp_path: Path) -> None:  # noqa: F811
    model = f"{{backbone: {{path: '{worded_qwen}'}}, max_new_tokens: 12, emotion_scores: true}}"
    folders = run_both(pair, tmp_path, "predict", model, "objectives: [attributes, emotion]")
    true, false = ((folder / "predictions.jsonl").read_bytes() for folder in folders)
    assert true == false
    first = json.loads(true.splitlines()[0])
    assert sum(first["emotion_scores"].values()) == pytest.approx(1, abs=1e-5)
    assert first["provenance"]["replies"][1]["reply"]


def test_questions_to_an_endpoint(pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_UNDER_TEST", "k")
    sent: list[list[str]] = []
    said: list[bytes] = []
    for n, tars in enumerate(pair):

        def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
            send(handler, 200, completion('{"emotion": "awe", "intensity": 4}'))

        with server(answer) as (url, seen):
            who = ["--base-url", url, "--model", "m", "--api-key-env", "KEY_UNDER_TEST", "--price", "1", "2"]
            files = ["--store", str(tmp_path / f"store{n}"), "--out", str(tmp_path / f"{n}.jsonl")]
            assert main(["predict", *who, tars, *files]) == 0
        sent.append(sorted(json.dumps(body, sort_keys=True) for body in seen))
        said.append((tmp_path / f"{n}.jsonl").read_bytes())
    assert len(sent[0]) == 16
    assert sent[0] == sent[1]
    assert said[0] == said[1]


def test_online_features(pair: tuple[str, str], tiny_qwen: Path) -> None:
    from emo_lightning.data.collate import Collator
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_backbone

    net = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    batches: list[Mapping[str, object]] = []
    for tars in pair:
        dataset = LabelledDataset(TarIndex.open(tars), ("emotion", "intensity"))
        collate = LabelledCollator(Collator(net.processor, net.model_type, answers=False, padding_side="right"))
        batches.append(collate([dataset[Slot(row, False)] for row in range(8)]))
    true, false = batches
    labels = {"target", "emotion", "intensity"}
    for key in true:
        one, other = true[key], false[key]
        assert equal(one, other) == (key not in labels), key


def equal(one: object, other: object) -> bool:
    """Whether two values of a batch are, in every number."""
    if isinstance(one, PatchPlaces) and isinstance(other, PatchPlaces):
        windows, others = one.windows, other.windows
        assert windows is not None
        assert others is not None
        tensors = torch.equal(windows.order, others.order) and torch.equal(one.positions, other.positions)
        return tensors and one.pictures.lengths == other.pictures.lengths and windows.samples.lengths == others.samples.lengths
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        # What is not known of either is the same of both.
        return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())
    return one == other


def test_embeddings_and_explanations(
    pair: tuple[str, str],
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vectors = []
    for n, tars in enumerate(pair):
        out = tmp_path / f"embedded{n}"
        shards = sorted(str(p) for p in Path(tars).parent.glob(Path(tars).name))
        assert main(["embed", *shards, "--model", str(bundle), "--out", str(out)]) == 0
        index = TarIndex.open(str(out))
        vectors.append({index.record(row).id: np.array(index.des(row)) for row in range(len(index))})
    assert vectors[0].keys() == vectors[1].keys()
    for key, des in vectors[0].items():
        assert np.array_equal(des, vectors[1][key]), key

    said = []
    for n, tars in enumerate(pair):
        index = TarIndex.open(tars)
        row = next(r for r in range(len(index)) if index.record(r).id == min(vectors[0]))
        image, extension = index.image_bytes(row)
        path = tmp_path / str(n) / f"picture.{extension}"
        path.parent.mkdir()
        path.write_bytes(image)
        capsys.readouterr()
        words = ["explain", str(path), "--model", str(bundle), "--out", str(tmp_path / "o.png"), "--max-new-tokens", "8"]
        assert main(words) == 0
        said.append(json.loads(capsys.readouterr().out))
        assert main(["embed", str(path), "--model", str(bundle), "--out", str(tmp_path / f"{n}.parquet")]) == 0
    assert said[0] == said[1]
    one, two = (parquet.read_table(tmp_path / f"{n}.parquet")["des"].to_pylist() for n in range(2))
    assert one == two
