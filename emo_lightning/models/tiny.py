"""A small Qwen2.5-VL in the true architecture, made from nothing, for the demo world and for tests.

It is an ordinary folder that `transformers` loads; only its sizes and its tokenizer differ from the published ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.chat import KEY_GUIDE, prompt
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.weights import save_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2_5_VLProcessor

CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2.5-VL's chat format without its default system message, which a model made from nothing has no use for."""


NUMBER_FORMS = ("{}", " {}", ", {}")
"""How a number stands in our JSON: first, after a colon, after a comma."""


@dataclass
class TinyQwen:
    """Sizes of a small Qwen2.5-VL."""

    hidden_size: int = 128
    """Width of the language model; the DES has half of it."""
    layers: int = 5
    """Decoder layers, at least four (the DES head reads the last four)."""
    heads: int = 4
    """Attention heads; half as many key-value heads."""
    vision_hidden: int = 96
    """Width of the vision tower."""
    vision_layers: int = 3
    """Blocks of the vision tower, all with full attention."""
    patch: int = 14
    """Side of a patch, pixels; two by two of them make an image token."""
    vocabulary: int = 4000
    """Size at which the tokenizer stops merging; it ends earlier where every word and number is a single token."""
    max_number: int = 168
    """Whole numbers up to this one are single tokens: coordinates of boxes."""
    init: float = 0.06
    """Standard deviation of initial weights; Qwen's 0.02 is made for widths of thousands."""
    word_init: float = 0.15
    """The same of the embeddings. A token that training never shows is pushed down by every answer, and Adam makes that drift large:
    with 0.06 such tokens ended at a cosine of 0.93 to each other, and a later round could not tell them apart."""
    position_init: float = 3.0
    """Standard deviation of the initial query and key biases of the language model. A bias times a bias, rotated, is a preference of a
    head for a relative position whatever the content; starting from none, no head had found one after 600 steps, and boxes had the
    right size at any place (experiments/LOG.md)."""
    vision_position_init: float = 1.0
    """The same in the vision tower."""
    rope_theta: float = 2.0
    """Base of the rotary positions. Width has the lowest frequencies of M-RoPE: with Qwen's 1e6, columns of a picture of five tokens
    would differ by a thousandth of a radian, and no box could be read off."""


def build_tokenizer(words: Iterable[str], *, vocabulary: int, max_number: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's special tokens and ChatML, in which these words, numbers and our JSON are single tokens.

    Any text can be encoded (bytes are the fallback), so a model built on it also runs on images from elsewhere.
    """
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    number = r",? ?\d{1,3}"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rf"{number}| ?\p{{L}}+| ?[^\s\p{{L}}\d]+|\s+"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(QWEN2_5_VL.special_tokens),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    known = sorted(set(words))
    corpus = [f"{word} {word}" for word in known]
    corpus += [form.format(n) for n in range(max_number + 1) for form in NUMBER_FORMS for _ in range(2)]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in _phrases()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32768,
        extra_special_tokens={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        additional_special_tokens=list(QWEN2_5_VL.special_tokens),
        chat_template=CHATML_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _phrases() -> list[str]:
    """Parts of our prompts and of our JSON that always stand together."""
    opening = prompt(()).rstrip()
    guides = [f"{key} ({guide})" for key, guide in KEY_GUIDE.items()]
    text_keys = ("description", "background", "attribute", "subject", "emotion")
    starts = [f'{before}"{key}": "' for before in ("{", '", ', "]], ") for key in text_keys]
    return [
        opening,
        *[" " + g for g in guides],
        *starts,
        '{"bbox_2d": [[',
        '", "intensity":',
        "]]}",
        "], [",
        '"}',
        "user\n",
        "assistant\n",
    ]


def build_qwen(folder: str | Path, words: Sequence[str], sizes: TinyQwen, *, max_pixels: int, seed: int = 0) -> Path:
    """Write a randomly initialised Qwen2.5-VL with tokenizer and processor to a folder.

    Args:
        folder: where to; `transformers` loads it with `from_pretrained`.
        words: words that become single tokens.
        sizes: see `TinyQwen`.
        max_pixels: pixel limit of the image processor.
        seed: of the weights.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = build_tokenizer(words, vocabulary=sizes.vocabulary, max_number=sizes.max_number)
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in QWEN2_5_VL.special_tokens}
    head_dim = sizes.hidden_size // sizes.heads
    config = Qwen2_5_VLConfig(
        text_config={
            "hidden_size": sizes.hidden_size,
            "intermediate_size": 3 * sizes.hidden_size,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads // 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "use_cache": True,
            # Half of each head's dimensions rotate; the split over time, height and width has Qwen's proportions.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": sizes.rope_theta,
                "mrope_section": [head_dim // 2 - 2 * (3 * head_dim // 16), 3 * head_dim // 16, 3 * head_dim // 16],
            },
            "initializer_range": sizes.init,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": 3 * sizes.vision_hidden,
            "num_heads": 4,
            "patch_size": sizes.patch,
            "out_hidden_size": sizes.hidden_size,
            "fullatt_block_indexes": list(range(sizes.vision_layers)),
            "initializer_range": sizes.init,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
        _start_positions(model, sizes)
        _start_words(model.lm_head.weight, tokenizer, sizes)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    limits = {"shortest_edge": (2 * sizes.patch) ** 2 * 4, "longest_edge": max_pixels}
    processor = build_processor(tokenizer, limits, sizes.patch)
    folder = Path(folder)
    save_model(model, processor, folder)
    return folder


def build_processor(tokenizer: PreTrainedTokenizerFast, limits: dict[str, int], patch: int) -> Qwen2_5_VLProcessor:
    """A `Qwen2_5_VLProcessor` around a tokenizer of `build_tokenizer`; limits are its `shortest_edge` and `longest_edge`, in pixels."""
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=limits, patch_size=patch),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=limits, patch_size=patch),
        chat_template=CHATML_TEMPLATE,
    )


@torch.no_grad()
def _start_positions(model: nn.Module, sizes: TinyQwen) -> None:
    for name, bias in model.named_parameters():
        if name.endswith("qkv.bias"):
            bias[: 2 * len(bias) // 3].normal_(0, sizes.vision_position_init)
        elif name.endswith(("q_proj.bias", "k_proj.bias")):
            bias.normal_(0, sizes.position_init)


@torch.no_grad()
def _start_words(embedding: Tensor, tokenizer: PreTrainedTokenizerFast, sizes: TinyQwen) -> None:
    """Set words apart, and give numbers waves of their value.

    A coordinate then starts as a neighbour of the next one, and what is learned of one number is learned of those around it.

    Args:
        embedding: (vocabulary, hidden), filled in place.
        tokenizer: says which rows are numbers.
        sizes: spread of the rows, and the largest number.
    """
    embedding.normal_(0, sizes.word_init)
    periods = torch.logspace(math.log10(4), math.log10(200), sizes.hidden_size // 2)
    for form in NUMBER_FORMS:
        offset = torch.randn(2 * len(periods)) * sizes.word_init
        for number in range(sizes.max_number + 1):
            ids = tokenizer(form.format(number), add_special_tokens=False)["input_ids"]
            if len(ids) == 1:
                angle = 2 * math.pi * number / periods
                wave = torch.cat([angle.sin(), angle.cos()]) * math.sqrt(2) * sizes.word_init
                embedding[ids[0]] = offset + wave


def words_of(tars: Sequence[str]) -> list[str]:
    """Every word of the records' texts and the emotions' names, with and without a blank before it."""
    from emo_lightning.data.tar_index import TarIndex

    index = TarIndex.open(list(tars), bad_images=True)
    words: set[str] = {str(emotion) for emotion in EMOTIONS}
    for row in range(len(index)):
        record = index.record(row)
        for text in (record.description, record.background, record.attribute, record.subject):
            words.update(re.findall(r"[^\W\d]+", text or ""))
    return sorted(words)
