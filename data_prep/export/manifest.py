"""`manifest.json` of an export, by its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

UNKNOWN_LICENCE = "unknown"
"""Licence of images of which none is known."""


class ShardRow(TypedDict):
    """One tar."""

    file: str
    split: str
    count: int
    sha256: str
    bytes: int


class Contents(TypedDict):
    """Images by what they are and who annotated them."""

    source: dict[str, int]
    licence: dict[str, int]
    extension: dict[str, int]
    model: dict[str, int]
    people: NotRequired[dict[str, int]]
    """Images with valence, arousal, dominance or votes of people; absent where there are none."""


class ImagesRow(TypedDict):
    """Which type the images have, and what was written anew for that."""

    type: str
    """jpg, png or webp; `keep`: each as it was."""
    reencoded: dict[str, int]
    """Images by the type that they had."""
    how: str | None
    """How they were written; None where none was."""


class Manifest(TypedDict):
    """What an export holds, and what it was made of; the same input gives the same manifest."""

    schema_version: int
    name: str
    shards: list[ShardRow]
    counts: dict[str, int]
    """Images by split."""
    label_counts: dict[str, dict[str, int]]
    """Images by split and emotion."""
    contents: Contents
    images: ImagesRow
    excluded: dict[str, int]
    """What was left out, by reason."""
    created_from: Mapping[str, object]
