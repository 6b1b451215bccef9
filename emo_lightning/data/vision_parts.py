"""Parts of a vision cache: what their header says, how they are read, and how they are written (see `vision_cache`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from emo_lightning.core.foreign import decode_json, list_of, object_of, text_of
from emo_lightning.data.mapped_parts import PartError, checked_tensor, named_tensor, open_part, summed_text, write_part
from emo_lightning.models.families import BackbonePart

VISION_HEADER_KEY = "vision"
"""Key of a part's header."""
VISION_PARTS = "part-*.safetensors"
"""Pattern of their names."""


class VisionKey(NamedTuple):
    """What decides the states of an image, beside the image."""

    part: BackbonePart
    """The last part of the model that they have passed."""
    facts: Mapping[str, str]
    """Weights, processor, precision and so on, each by name and by content."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return hashlib.sha256(json.dumps([self.part, sorted(self.facts.items())]).encode()).hexdigest()[:32]

    @property
    def header(self) -> list[object]:
        """As it stands in the header of each part."""
        return [self.part, dict(self.facts)]


def images_of(place: object, text: str, key: VisionKey) -> list[str]:
    """SHA-256 of the images that a part's header names.

    Args:
        place: of the part, for messages.
        text: its header.
        key: of the states that are looked for.

    Raises:
        PartError: it is no header, or holds states of another key.
    """
    where = f"{place}: header"
    header = object_of(decode_json(text, where, PartError), where, PartError)
    if header.get("key") != key.header:
        msg = f"{place}: holds states of another model, processor or precision than its folder"
        raise PartError(msg)
    return [text_of(one, where, PartError) for one in list_of(header.get("images"), where, PartError)]


def read_contents(path: Path, key: VisionKey, like: Tensor | None) -> tuple[list[str], list[int]]:
    """The images of a part, and the row at which the states of each end.

    Args:
        path: of the part.
        key: of the states that are looked for.
        like: (1, width), of the states of one token; None takes any width and type.

    Raises:
        PartError: it is damaged, or holds other states.
    """
    with open_part(path) as file:
        images = images_of(path, summed_text(path, file.metadata() or {}, VISION_HEADER_KEY), key)
        ends = checked_tensor(path, file, VISION_HEADER_KEY, "ends")
        states = named_tensor(path, file, "states")
        _check_tensors(path, states, ends, like)
        found: list[int] = ends.tolist()
        rows = len(states)
    if len(found) != len(images) or sorted(set(found)) != found or (found and (found[0] < 1 or found[-1] != rows)):
        msg = f"{path}: names {len(images)} images, whose {rows} rows are cut at other places"
        raise PartError(msg)
    return images, found


def _check_tensors(path: Path, states: Tensor, ends: Tensor, like: Tensor | None) -> None:
    if ends.dtype != torch.int64 or ends.ndim != 1:
        msg = f"{path}: damaged: ends are {ends.dtype} of shape {list(ends.shape)}; expected int64 of shape [images]"
        raise PartError(msg)
    width, dtype = ("width", states.dtype) if like is None else (like.shape[1], like.dtype)
    fits = states.ndim == 2 and states.is_floating_point() and states.dtype == dtype
    if not fits or (like is not None and states.shape[1] != width):
        expected = "floats" if like is None else dtype
        msg = f"{path}: damaged: states are {states.dtype} of shape {list(states.shape)}; expected {expected} of shape [tokens, {width}]"
        raise PartError(msg)


def write_vision_part(folder: Path, key: VisionKey, images: Sequence[str], states: Sequence[Tensor], writer: str) -> Path:
    """Write a part, whose name says what it holds.

    Args:
        folder: of the key.
        key: of the states.
        images: SHA-256 of each.
        states: (tokens, width) of each.
        writer: see `write_part`.

    Returns:
        Where it stands.
    """
    name = hashlib.sha256(json.dumps(images).encode()).hexdigest()[:24]
    ends = torch.tensor([len(one) for one in states]).cumsum(0)
    path = folder / f"part-{name}.safetensors"
    header = {"key": key.header, "images": images}
    write_part(path, VISION_HEADER_KEY, header, {"states": torch.cat(list(states)), "ends": ends}, writer=writer)
    return path
