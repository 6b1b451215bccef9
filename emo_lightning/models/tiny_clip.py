"""A small CLIP in the true architecture, made from nothing, for the demo world and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from emo_lightning.models.weights import save_model


def build_clip(folder: str | Path, words: Sequence[str], *, seed: int = 0, image_size: int = 64, width: int = 96) -> Path:
    """Write a randomly initialised CLIP with tokenizer and image processor to a folder.

    Args:
        folder: where to.
        words: words that become single tokens.
        seed: of the weights.
        image_size: square input, pixels.
        width: hidden and projection width of both towers.
    """
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["<pad>", "<unk>", "<s>", "</s>", *sorted(set(words))])}, "<unk>")
    )
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>", model_max_length=64
    )
    config = CLIPConfig(
        text_config={
            "vocab_size": len(fast),
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "bos_token_id": 2,
            "eos_token_id": 3,
            "pad_token_id": 0,
        },
        vision_config={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "image_size": image_size,
            "patch_size": 8,
        },
        projection_dim=width,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config)
    size = {"height": image_size, "width": image_size}
    # No crop: a subject at the border belongs to the picture.
    image_processor = CLIPImageProcessor(size=size, do_center_crop=False, crop_size=size)
    folder = Path(folder)
    save_model(model, CLIPProcessor(image_processor=image_processor, tokenizer=fast), folder)
    return folder
