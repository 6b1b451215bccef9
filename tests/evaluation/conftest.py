"""Small records, real tars and a real (untrained) CLIP, all made on the spot."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from emo_lightning.schema import GroundedObject, PredictedObject, Prediction, Record

WORDS = ["a", "red", "dog", "cat", "runs", "on", "the", "beach", "storm", "child", "cries", "in", "room"]


def make_record(identity: str, boxes: list[tuple[float, float, float, float]] | None = None, **fields: Any) -> Record:
    objects = [GroundedObject(phrase="dog", bbox=b, score=1.0, primary=True) for b in boxes or []]
    given = {"source": "made", "width": 100, "height": 50, "sha256": "0" * 64, "split": "test", **fields}
    return Record(id=identity, objects=objects, **given)


def make_prediction(identity: str, boxes: list[tuple[float, float, float, float]] | None = None, **fields: Any) -> Prediction:
    return Prediction(id=identity, objects=[PredictedObject(bbox=b) for b in boxes or []], **fields)


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
            **small, "vocab_size": len(vocabulary), "max_position_embeddings": 12,
            "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
        },
        vision_config={**small, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[[list[Record]], tuple[Path, list[Record]]]:
    """Records -> a tar with a noise image for each, and the records as they stand in it (sha256 of that image)."""

    def make(records: list[Record]) -> tuple[Path, list[Record]]:
        path = tmp_path / "set-000000.tar"
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

    return make
