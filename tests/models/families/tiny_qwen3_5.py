"""A small random Qwen3.5 in the true architecture, with the tokenizer of the tests' Qwen2.5-VL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from emo_lightning.models.families import FamilyError, family_of


def build_qwen3_5(folder: Path, like: Path, *, max_pixels: int = 224**2, layers: int = 4) -> Path:
    """Write it to a folder.

    Args:
        folder: where to; transformers loads it.
        like: folder of a model with a tokenizer of `emo_lightning.models.tiny`.
        max_pixels: limit of its image processor.
        layers: of the language model; every fourth has full attention.
    """
    try:
        family_of("qwen3_5").model_class()
    except FamilyError as error:
        # What is refused with this version of transformers cannot be tested with it.
        pytest.skip(str(error))
    from transformers import (
        AutoProcessor,
        Qwen2VLImageProcessor,
        Qwen3_5Config,
        Qwen3_5ForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = AutoProcessor.from_pretrained(like).tokenizer
    ids = {
        name: tokenizer.convert_tokens_to_ids(f"<|{name}|>")
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    end, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|endoftext|>"))
    config = Qwen3_5Config(
        text_config={
            **{"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": layers, "num_attention_heads": 4},
            **{"head_dim": 32, "num_key_value_heads": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 2048},
            # As in the published models, more heads of values than of keys.
            **{"linear_key_head_dim": 16, "linear_value_head_dim": 12, "linear_num_key_heads": 2, "linear_num_value_heads": 4},
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                "mrope_section": [4, 4, 4],
                "mrope_interleaved": True,
            },
            **{"eos_token_id": end, "pad_token_id": pad, "bos_token_id": pad},
        },
        vision_config={
            **{"depth": 3, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 64},
            # The table of the published models: the loader's workers stretch one of that size.
            "num_position_embeddings": 48**2,
        },
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen3_5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Transformers starts with 0.02: in so narrow a model a picture would change next to nothing.
            if parameter.ndim > 1:
                # Queries and keys are brought to length 1: of tiny ones nothing but rounding errors would be left.
                parameter.mul_(20 if "conv1d" in name else 1.5)
            # And with states that forget all but a few tokens.
            elif name.endswith("A_log"):
                parameter.sub_(3)
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
