"""What decides the states of a picture that has passed a frozen vision tower: the key of a cache of them.

Everything is named by content. Where weights or images lie is no part of it; what the language model or its adapters hold is none either,
so all arms of an experiment that leave the tower alone share one cache.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Protocol, cast

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from emo_lightning.core.images import open_image, rgb_image, to_rgb
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.families import BackbonePart, VisionInputs

VISION_CODE_VERSION = 1
"""Raised when our own code gives other states for the same picture."""


class _Described(Protocol):
    """Of a config or processor of transformers."""

    def to_dict(self) -> dict[str, object]:
        """All of its settings."""
        ...


def vision_facts(backbone: Backbone, part: BackbonePart, states: Tensor) -> dict[str, str]:
    """What states depend on, beside the picture.

    Args:
        backbone: on its device, with its weights in the type that they have in training.
        part: the last one that the states have passed.
        states: of some picture, computed as those of the cache are; asked within their precision's context.
    """
    family, base = backbone.family, backbone.base
    tower = family.module(base, family.vision_tower)
    limits = family.pixel_limits(backbone.processor)
    device = states.device.type
    on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    autocast = str(torch.get_autocast_dtype(device)) if on else "none"
    config = cast(_Described, base.config.vision_config).to_dict()
    images = cast(_Described, backbone.processor.image_processor).to_dict()
    return {
        "version": f"{VISION_CODE_VERSION}",
        "family": family.model_type,
        "weights": _weights(backbone, part),
        "tower": _hash_of(config),
        "processor": _hash_of(images),
        "pixels": f"{limits.lowest} to {limits.highest}",
        # Of the program that decodes, too: two of them may differ in a pixel.
        "decoding": _of_tensors(one for one in probe_inputs(backbone).tensors.items() if isinstance(one[1], Tensor)),
        **_of_pillow(),
        "dtype": str(states.dtype),
        "precision": f"autocast {autocast}, matmul {torch.get_float32_matmul_precision()}",
        "attention": str(getattr(tower.config, "_attn_implementation", None)),
        "compiled": str(backbone.config.compile),
        "device": _device(states.device),
        "programs": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def _device(device: torch.device) -> str:
    """What computes: another GPU, or other kernels, may round in another way."""
    if device.type != "cuda":
        return device.type
    return f"cuda, {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"


def probe_inputs(backbone: Backbone) -> VisionInputs:
    """A picture of our own, decoded and prepared as those of tars are."""
    return backbone.family.vision_inputs(backbone.processor, [rgb_image(_probe(), "probe")])


@cache
def _of_pillow() -> dict[str, str]:
    """What Pillow makes of that picture, which decodes what `decoded_jpeg` does not; nothing where it is the same, as it has been so far."""
    pixels = to_rgb(open_image(_probe(), "probe", upright=True)).tobytes()
    same = pixels == rgb_image(_probe(), "probe").tobytes()
    return {} if same else {"decoding by Pillow": hashlib.sha256(pixels).hexdigest()}


@cache
def _probe() -> bytes:
    """A JPEG of 96 × 80 pixels with something at all frequencies."""
    rows, columns = np.mgrid[:80, :96]
    channels = [(rows * factor + columns * columns // (factor + 1) + 37 * factor) % 256 for factor in (1, 3, 7)]
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).astype(np.uint8)).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def _weights(backbone: Backbone, part: BackbonePart) -> str:
    """Of the parts that a picture passes, adapters included."""
    family, base = backbone.family, backbone.base
    parts = ("vision",) if part == "vision" else ("vision", "merger")

    def passed() -> Iterator[tuple[str, object]]:
        yield from (one for one in base.named_parameters() if family.part_of(one[0]) in parts)
        yield from (one for one in base.named_buffers() if family.part_of(one[0]) in parts)
        for name, module in base.named_modules():
            # How much an adapter counts.
            if family.part_of(name) in parts and isinstance(scaling := getattr(module, "scaling", None), dict):
                yield f"{name}.scaling", json.dumps(scaling, sort_keys=True)

    return _of_tensors(sorted(passed(), key=lambda one: one[0]))


def _of_tensors(named: Iterable[tuple[str, object]]) -> str:
    digest = hashlib.sha256()
    for name, value in named:
        digest.update(f"{name} ".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype} {list(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        else:
            digest.update(f"{value}\n".encode())
    return digest.hexdigest()


def _hash_of(settings: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()
