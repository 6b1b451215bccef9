"""What both benchmarks of fine-tuning train on: drawn pictures with answers of unequal lengths, small and true models, and the peers' data."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.core.records import Record
from emo_lightning.data.chat import objective, prompt, target_answer
from emo_lightning.data.collate import Collator
from emo_lightning.data.lengths import sample_lengths
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.families import BACKBONE_PARTS
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.tiny import TinyQwen, build_processor, build_qwen, build_tokenizer, words_of

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import Qwen2_5_VLConfig

KEYS = ("description",)

TEXT_3B: dict[str, Any] = {
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
}
VISION_3B: dict[str, Any] = {
    "depth": 32,
    "hidden_size": 1280,
    "num_heads": 16,
    "intermediate_size": 3420,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
    "out_hidden_size": 2048,
}
SMALL_TEXT: dict[str, Any] = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "intermediate_size": 1376,
    "vocab_size": 3152,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
}
SMALL_VISION: dict[str, Any] = {
    "depth": 5,
    "hidden_size": 256,
    "num_heads": 8,
    "intermediate_size": 684,
    "fullatt_block_indexes": [4],
    "out_hidden_size": 256,
}


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


ONLY_RUNS = TinyQwen(hidden_size=64, layers=4, heads=4, vision_hidden=32, vision_layers=2, vocabulary=4000)
"""A model that only shows that all runs."""


def build_tiny(folder: Path, tars: str, most_pixels: int, sizes: TinyQwen = ONLY_RUNS) -> Path:
    """A model with random weights; `TinyQwen()` has the sizes of the demo's."""
    return build_qwen(folder, words_of([tars]), sizes, max_pixels=most_pixels, seed=0)


def published_3b() -> Qwen2_5_VLConfig:
    """The configuration of Qwen/Qwen2.5-VL-3B-Instruct (its config.json)."""
    return _config(TEXT_3B, VISION_3B)


def small_3b() -> Qwen2_5_VLConfig:
    """The 3B made small: decoder / 8 wide and / 6 deep, head and tower such that their shares of the work stay (`shares`)."""
    return _config(TEXT_3B | SMALL_TEXT, VISION_3B | SMALL_VISION)


def _config(text: dict[str, Any], vision: dict[str, Any]) -> Qwen2_5_VLConfig:
    from transformers import Qwen2_5_VLConfig

    return Qwen2_5_VLConfig(text_config=dict(text), vision_config=dict(vision), tie_word_embeddings=True)


class Shares(NamedTuple):
    """Of the work of a forward pass, with the decoder's layers as 1."""

    tower: float
    """The vision tower and its merger."""
    head: float
    """The language-model head, were it run at every token."""


def shares(config: Qwen2_5_VLConfig, sides: tuple[int, int], text: int, pictures: int = 256) -> Shares:
    """By the operations of their products and of attention (`Family.work`), over pictures of random sides.

    Args:
        config: of the model; nothing of it is allocated.
        sides: pixels of a side, the least and the most.
        text: tokens beside those of a picture.
        pictures: that are drawn.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    token = VISION_3B["spatial_merge_size"] * VISION_3B["patch_size"]
    grids = np.random.default_rng(0).integers(sides[0], sides[1] + 1, (pictures, 2)) // token
    tokens = [int(rows * columns) + text for rows, columns in grids]
    batch = {"image_grid_thw": torch.tensor([(1, 2 * rows, 2 * columns) for rows, columns in grids.tolist()])}
    done = QWEN2_5_VL.work(model, QWEN2_5_VL.products(model), batch, tokens)
    work = {part: one.weights + one.attention for part, one in done.items()}
    text_config = config.get_text_config()
    head = 2.0 * text_config.vocab_size * text_config.hidden_size * sum(tokens)
    return Shares((work["vision"] + work["merger"]) / work["language"], head / work["language"])


def build_small(folder: Path, tars: str, most_pixels: int) -> Path:
    """`small_3b` with random weights."""
    return _build(folder, small_3b(), tars, most_pixels, "cpu", torch.float32)


def build_3b(folder: Path, tars: str, most_pixels: int, device: str) -> Path:
    """The 3B in its true shapes with random weights, as a download would be."""
    return _build(folder, published_3b(), tars, most_pixels, device, torch.bfloat16)


def _build(folder: Path, config: Qwen2_5_VLConfig, tars: str, most_pixels: int, device: str, dtype: torch.dtype) -> Path:
    """A model whose tokenizer knows the words of the tars."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    words = config.get_text_config().vocab_size
    tokenizer = build_tokenizer(words_of([tars]), vocabulary=min(16000, words), max_number=168)
    assert len(tokenizer) <= words
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {f"vision_{end}_token_id": f"<|vision_{end}|>" for end in ("start", "end")}
    assert set(names.values()) <= set(QWEN2_5_VL.special_tokens)
    for key, token in names.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
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
        text = target_answer(KEYS, record, QWEN2_5_VL.codec, (record.width, record.height))
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
    return "|".join(f"({QWEN2_5_VL.lora_targets[part]})" for part in BACKBONE_PARTS if train_vision or part != "vision")
