"""What every configuration of the factory is made of: the strict base class, YAML files, and where our own files lie."""

from __future__ import annotations

from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: object, info: ValidationInfo) -> object:
        # Pydantic takes true for 1 and "5" for 5.
        if (
            info.field_name is not None
            and (wrong := _no_number(value, cls.model_fields[info.field_name].annotation)) is not None
        ):
            msg = f"found {wrong!r}; expected a number"
            raise ValueError(msg)
        return value


def _no_number(value: object, wanted: object) -> object:
    """The first value that is true, false or text where a type wants a number; None where there is none."""
    options = (
        [one for one in get_args(wanted) if one is not type(None)] if get_origin(wanted) in (Union, UnionType) else [wanted]
    )
    if isinstance(value, bool | str):
        return value if options and all(one in (int, float) for one in options) else None
    for one in options:
        arguments = get_args(one)
        if isinstance(value, list) and get_origin(one) in (list, tuple) and arguments:
            items: list[tuple[object, object]] = [(item, arguments[min(n, len(arguments) - 1)]) for n, item in enumerate(value)]
        elif isinstance(value, dict) and get_origin(one) is dict:
            items = [(item, arguments[1]) for item in value.values()]
        else:
            continue
        for item, kind in items:
            if (wrong := _no_number(item, items[-1][1] if kind is ... else kind)) is not None:
                return wrong
    return None


def shipped(path: str | Path) -> Path:
    """The path itself, or, where nothing is there, our own file of that name: `configs/prep/api_only.yaml` is found from any directory."""
    own = CONFIGS.parents[1] / path
    return own if own.is_file() and not Path(path).exists() else Path(path)


def beside(folder: Path, named: Path) -> Path:
    """A file that a configuration in a folder names: relative to it, or, where none is there, our own of that name (`prices.yaml`)."""
    found, own = folder / named, CONFIGS / named
    return own if own.is_file() and not found.exists() else found


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or no mapping.
    """
    return files.read_yaml(path, ConfigError)
