"""What both benchmarks of fine-tuning train on: drawn pictures with answers of unequal lengths, small and true models, and the peers' data."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.core.records import Record
from emo_lightning.data.chat import answer, objective, prompt
from emo_lightning.data.collate import Collator
from emo_lightning.data.lengths import sample_lengths
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import BackboneConfig, load_backbone
from emo_lightning.models.families import PARTS
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.tiny import TinyQwen, build_processor, build_qwen, build_tokenizer, words_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Qwen2_5_VLConfig

PEERS = Path(__file__).parent / ".peers"
KEYS = ("description",)


def find_peers() -> None:
    """Let what stands in `benchmarks/.peers` be imported, behind what is installed."""
    if str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))


@dataclass(frozen=True)
class Pictures:
    """What is drawn and said."""

    count: int
    sides: tuple[int, int]
    """Pixels of a side, the least and the most."""
    words: tuple[int, int]
    """Of an answer, the fewest and the most."""

    def samples(self) -> Iterator[tuple[Record, bytes, str]]:
        """(record, JPEG, "jpg")."""
        draw = np.random.default_rng(0)
        said = (sample.truth.description or "" for sample in World(seed=0).samples("train", 40))
        words = sorted({word for text in said for word in text.split()})
        for sample in World(seed=0).samples("train", self.count):
            width, height = (int(side) for side in draw.integers(self.sides[0], self.sides[1] + 1, 2))
            size = width, height
            data = io.BytesIO()
            Image.open(io.BytesIO(sample.image)).convert("RGB").resize(size).save(data, "JPEG", quality=90)
            text = " ".join(draw.choice(words, int(draw.integers(self.words[0], self.words[1] + 1))))
            changes = {"width": width, "height": height, "description": text, "objects": [], "triplets": []}
            record = sample.truth.model_copy(update={**changes, "sha256": hashlib.sha256(data.getvalue()).hexdigest()})
            yield record, data.getvalue(), "jpg"

    def write(self, folder: Path) -> str:
        """Into tars; returns their glob."""
        write_shards(self.samples(), folder, "world", self.count)
        return f"{folder}/*.tar"


def token_lengths(tars: str, model: Path) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of every sample of the tars, (N,)."""
    backbone = load_backbone(BackboneConfig(str(model), tuning="frozen"))
    collate = Collator(backbone.processor, backbone.model_type, answers=True)
    return sample_lengths(TarIndex.open(tars), [objective("caption")], collate)[:, 0]


def build_small(folder: Path, tars: str, most_pixels: int) -> Path:
    """A model of six layers of width 256."""
    sizes = TinyQwen(hidden_size=256, layers=6, heads=8, vision_hidden=128, vision_layers=4, vocabulary=16000)
    return build_qwen(folder, words_of([tars]), sizes, max_pixels=most_pixels, seed=0)


def build_tiny(folder: Path, tars: str, most_pixels: int) -> Path:
    """A model that only shows that all runs."""
    sizes = TinyQwen(hidden_size=64, layers=4, heads=4, vision_hidden=32, vision_layers=2, vocabulary=4000)
    return build_qwen(folder, words_of([tars]), sizes, max_pixels=most_pixels, seed=0)


def published_3b() -> Qwen2_5_VLConfig:
    """The configuration of Qwen/Qwen2.5-VL-3B-Instruct (its config.json)."""
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151936,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 2048,
        },
        tie_word_embeddings=True,
    )


def build_3b(folder: Path, tars: str, most_pixels: int, device: str) -> Path:
    """The 3B in its true shapes with random weights, as a download would be; its tokenizer knows the words of the tars."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = published_3b()
    tokenizer = build_tokenizer(words_of([tars]), vocabulary=16000, max_number=168)
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {f"vision_{end}_token_id": f"<|vision_{end}|>" for end in ("start", "end")}
    assert set(names.values()) <= set(QWEN2_5_VL.special_tokens)
    for key, token in names.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    build_processor(tokenizer, {"shortest_edge": 3136, "longest_edge": most_pixels}, 14).save_pretrained(folder)
    return folder


def chats(tars: str) -> list[dict[str, Any]]:
    """Every sample as TRL takes it: `images` (JPEG), `prompt` and `completion`, with our own prompts and answers in them."""
    index = TarIndex.open(tars)
    rows = []
    for row in range(len(index)):
        record = index.record(row)
        question = [{"role": "user", "content": prompt(KEYS)}]
        text = answer(KEYS, record, QWEN2_5_VL.codec, (record.width, record.height))
        said = [{"role": "assistant", "content": text}]
        rows.append({"images": [{"bytes": index.image_bytes(row)[0], "path": None}], "prompt": question, "completion": said})
    return rows


def dataset(tars: str) -> Dataset:
    """The same, for TRL."""
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    turns = [{"role": Value("string"), "content": Value("string")}]
    features = Features({"images": [ImageFeature()], "prompt": turns, "completion": turns})
    return Dataset.from_list(chats(tars), features=features)


def lora_targets(train_vision: bool = False) -> str:
    """The layers that get an adapter by default, as peft takes them."""
    return "|".join(f"({QWEN2_5_VL.lora_targets[part]})" for part in PARTS if train_vision or part != "vision")
