"""What every configuration of the factory is made of: the strict base class, YAML files, and where our own files lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from emo_lightning.core import files
from emo_lightning.core.errors import UserError

_BESIDE = Path(__file__).resolve().parents[1]
CONFIGS = next(
    (
        place
        for place in (_BESIDE / "configs" / "prep", _BESIDE / "emo_lightning" / "shipped" / "configs" / "prep")
        if place.is_dir()
    ),
    _BESIDE / "configs" / "prep",
)
"""Whole, working configurations of a pass: of the checkout, or of the wheel."""


class ConfigError(UserError, ValueError):
    """A configuration or price table is wrong; the message names the file, the key, what was found and what is allowed."""


class Settings(BaseModel):
    """A part of a configuration: no other keys, and not to be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def shipped(path: str | Path) -> Path:
    """The path itself, or, where nothing is there, our own file of that name: `configs/prep/api_only.yaml` is found from any directory."""
    own = CONFIGS.parents[1] / path
    return own if own.is_file() and not Path(path).exists() else Path(path)


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or no mapping.
    """
    return files.read_yaml(path, ConfigError)
