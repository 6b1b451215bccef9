"""EmoViT's checkpoint (LAVIS names) → a folder that transformers' InstructBLIP loads, checked key by key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from data_prep.local_models.checkpoints import CheckpointError, complete, identity, pretrained, read_state
from emo_lightning.core.files import atomic_folder, write_json

if TYPE_CHECKING:
    import torch

PROVENANCE_FILE = "emovit.json"
"""In the converted folder: what it was made of."""

_NAMES = (
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.embeddings.layernorm."),
    (r"^Qformer\.bert\.", "qformer."),
    (r"^(qformer\..*attention)\.self\.", r"\1.attention."),
    (r"^(?:llm|t5)_proj\.", "language_projection."),
    (r"^(?:llm|t5)_model\.", "language_model."),
    (r"^ln_vision\.", "vision_model.post_layernorm."),
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.blocks\.(\d+)\.norm(\d)\.", r"vision_model.encoder.layers.\1.layer_norm\2."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision_model.encoder.layers.\1.self_attn.projection."),
    (r"^visual_encoder\.blocks\.(\d+)\.attn\.", r"vision_model.encoder.layers.\1.self_attn."),
    (r"^visual_encoder\.blocks\.(\d+)\.mlp\.", r"vision_model.encoder.layers.\1.mlp."),
)

_NO_WEIGHTS = (
    # The head of the Q-Former's own pre-training; InstructBLIP does not have one.
    r"^Qformer\.cls\.",
    # Constants that older versions saved: 0, 1, 2, … and the frequencies of rotary embeddings.
    r"^Qformer\.bert\.embeddings\.position_ids$",
    r"\.rotary_emb\.inv_freq$",
)

_PARTS = (
    "query_tokens",
    "qformer.",
    "language_projection.",
    "vision_model.post_layernorm.",
    "vision_model.",
    "language_model.",
)
"""A checkpoint holds each part whole or not at all; the longer prefix wins."""

_TUNED = ("query_tokens", "qformer.")
"""What EmoViT tunes: without it a file is no EmoViT."""


class _MadeOf(TypedDict):
    checkpoint: str
    base: str


class Conversion(_MadeOf):
    """What `emovit.json` says: identities of checkpoint and base, how many keys landed, which parts the base supplied."""

    keys: int
    from_base: list[str]


def to_transformers_names(state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """LAVIS names → those of `InstructBlipForConditionalGeneration`; q and v biases of the vision tower are joined.

    Args:
        state: by LAVIS names.
        where: the file, for messages.

    Raises:
        CheckpointError: one of a pair of biases is missing, or two keys mean the same weight.
    """
    import torch

    renamed: dict[str, torch.Tensor] = {}
    for key, tensor in state.items():
        if any(re.search(pattern, key) for pattern in _NO_WEIGHTS):
            continue
        name = key
        for pattern, new in _NAMES:
            name = re.sub(pattern, new, name)
        if name in renamed:
            msg = f"{where}: two keys mean {name}; the second is {key}"
            raise CheckpointError(msg)
        renamed[name] = tensor
    for key in [key for key in renamed if key.endswith((".self_attn.q_bias", ".self_attn.v_bias"))]:
        stem = key[: -len("q_bias")]
        pair = [renamed.get(stem + which) for which in ("q_bias", "v_bias")]
        if pair[0] is None or pair[1] is None:
            msg = f"{where}: {key} is there without its partner (q_bias and v_bias belong together)"
            raise CheckpointError(msg)
        # Keys have no bias in this tower.
        renamed[stem + "qkv.bias"] = torch.cat([pair[0], torch.zeros_like(pair[0]), pair[1]])
    return {key: tensor for key, tensor in renamed.items() if not key.endswith((".self_attn.q_bias", ".self_attn.v_bias"))}


def _part(key: str) -> str | None:
    return max((part for part in _PARTS if key.startswith(part)), key=len, default=None)


def check_parts(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], where: str) -> list[str]:
    """Every key must land with its shape, and only whole parts may be missing.

    Args:
        state: the checkpoint, by transformers' names.
        wanted: the state of the base model.
        where: the file, for messages.

    Returns:
        The parts that the base model supplies.

    Raises:
        CheckpointError: names keys that do not land, are missing, or are of another shape.
    """
    problems = []
    if unknown := sorted(set(state) - set(wanted)):
        problems.append(f"{len(unknown)} keys that InstructBLIP does not have: {', '.join(unknown[:3])}")
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in sorted(set(state) & set(wanted))
        if state[key].shape != wanted[key].shape
    ]
    if shapes:
        problems.append(f"{len(shapes)} keys of another shape: {', '.join(shapes[:3])}")
    held = {_part(key) for key in state}
    missing = sorted(key for key in wanted if key not in state and (_part(key) in held or _part(key) in _TUNED))
    if missing:
        problems.append(f"{len(missing)} missing keys of parts that the file must hold whole: {', '.join(missing[:3])}")
    if problems:
        msg = f"{where}: not an EmoViT checkpoint for this base: {'; '.join(problems)}"
        raise CheckpointError(msg)
    return sorted({part for key in wanted if (part := _part(key)) is not None and part not in held})


def convert(checkpoint: str | Path, base: str, out: str | Path, *, dtype: str = "auto") -> Conversion:
    """Write `out`: the base model with the checkpoint's weights in it, its processor, and `emovit.json`.

    Args:
        checkpoint: `.pth` or `.safetensors` in LAVIS names, perhaps under `model`, perhaps only the tuned part.
        base: InstructBLIP, hub name, `name@revision` or folder.
        out: folder; it must not exist.
        dtype: of the weights written: `auto` (as the base is stored), `float32`, `bfloat16`, `float16`.

    Returns:
        What `emovit.json` says: checkpoint, base, keys that landed, parts that the base supplied.

    Raises:
        CheckpointError: the checkpoint or the base does not fit, or `out` exists. Nothing is left behind.
    """
    from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

    out = Path(out)
    if out.exists():
        msg = f"{out}: exists already; choose another folder or remove it"
        raise CheckpointError(msg)
    state = to_transformers_names(read_state(checkpoint), str(checkpoint))
    made_of: _MadeOf = {"checkpoint": identity(str(checkpoint)), "base": identity(base)}
    model = complete(InstructBlipForConditionalGeneration.from_pretrained, base, dtype=dtype)
    supplied = check_parts(state, model.state_dict(), str(checkpoint))
    model.load_state_dict(state, strict=False)
    processor = pretrained(InstructBlipProcessor.from_pretrained, base)
    report: Conversion = {**made_of, "keys": len(state), "from_base": supplied}
    with atomic_folder(out) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        write_json(temporary / PROVENANCE_FILE, report)
    return report
