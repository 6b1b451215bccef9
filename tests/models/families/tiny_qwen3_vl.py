"""A small random Qwen3-VL in the true architecture, with the tokenizer of the tests' Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

THINKING = "{% if add_generation_prompt %}<|im_start|>assistant\n"
"""How the chat template ends, in the form in which the models that think have it: a thought is opened."""


def build_qwen3_vl(folder: Path, like: Path, *, max_pixels: int = 224**2, thinking: bool = False) -> Path:
    """Write it to a folder.

    Args:
        folder: where to; transformers loads it.
        like: folder of a model with a tokenizer of `emo_lightning.models.tiny`.
        max_pixels: limit of its image processor.
        thinking: its chat template opens a thought, as those of the Thinking models do.
    """
    from transformers import (
        AutoProcessor,
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = AutoProcessor.from_pretrained(like).tokenizer
    if thinking:
        tokenizer.add_tokens(["<think>", "</think>"])
        assert THINKING in tokenizer.chat_template
        tokenizer.chat_template = tokenizer.chat_template.replace(THINKING, THINKING + "<think>\n")
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    config = Qwen3VLConfig(
        text_config={
            **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5, "num_attention_heads": 4, "head_dim": 24},
            **{"num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 2048},
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 4, 4],
                "mrope_interleaved": True,
            },
            **{"eos_token_id": end, "pad_token_id": pad, "bos_token_id": pad},
        },
        vision_config={
            **{"depth": 4, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 64},
            # The table of the published models: the loader's workers stretch one of that size.
            **{"num_position_embeddings": 48**2, "deepstack_visual_indexes": [0, 1, 2]},
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config)
    with torch.no_grad():
        # Transformers starts with 0.02: in so narrow a model a picture would change next to nothing.
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.generation_config.eos_token_id = [end, pad]
    model.generation_config.pad_token_id = pad
    model.save_pretrained(folder)
    limits = {"shortest_edge": 32**2, "longest_edge": max_pixels}
    sides: dict[str, Any] = {"size": limits, "patch_size": 16, "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sides),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(**sides),
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)
    return folder
