"""The YAML files of experiments and configs: reading, `extends`, and merging one over another."""

from __future__ import annotations

import copy
import datetime
import re
from pathlib import Path
from typing import Any

from emo_lightning.core import files
from emo_lightning.core.errors import InputError
from emo_lightning.core.names import begins_on_disk
from emo_lightning.core.shipped import ROOT as ROOT
from emo_lightning.core.yaml_words import WordLoader


class ExperimentError(InputError):
    """The experiment cannot run as asked; the message names the file, stage or key and what is allowed."""


class _Loader(WordLoader):
    """To which 1e-4 is a number."""


# YAML 1.1 wants a point in it and takes 1e-4 for text: the same rate written in two ways would be two settings.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]{1,2}$"), list("-+0123456789")
)


def parse_value(text: str) -> object:
    """A value of the command line, as it would stand in a file.

    What is not YAML is text, and so is what YAML would cut at a ` #`, a date (no setting is one, a folder may be), and what names a
    file that is there, or a pattern below a folder that is, unless it is a number or true or false.
    """
    try:
        value = files.parse_yaml(text, "the value", ExperimentError, _Loader)
    except ExperimentError:
        return text
    plain = isinstance(value, bool | int | float)
    if isinstance(value, datetime.date) or (
        isinstance(value, str | dict | list | None) and " #" in text and text[:1] not in "'\"{["
    ):
        return text
    return value if plain or not begins_on_disk(text) else text


def shipped_experiments() -> list[Path]:
    """The experiments that come with the package."""
    return sorted((ROOT / "experiments").glob("*.yaml"))


def find_file(path: str | Path, beside: Path = Path()) -> Path:
    """The file as named, else the one of that name that is shipped (`experiments/table6.yaml` from any directory)."""
    here, ours = beside / path, ROOT / path
    return ours if ours.is_file() and not here.exists() else here


def read_yaml(path: Path) -> dict[str, Any]:
    """One file, which must hold a mapping.

    Raises:
        ExperimentError: missing, not YAML, a key that stands twice, or no mapping; names the file and the line.
    """
    near = sorted(map(str, path.parent.glob("*.yaml"))) or [str(p.relative_to(ROOT)) for p in shipped_experiments()]
    return files.read_yaml(path, ExperimentError, _Loader, near)


def read_experiment(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file, over those that its key `extends` names (relative to it, else one that is shipped; of several, a later one over an earlier).

    Args:
        path: of an experiment.
        above: the files that extend it.

    Raises:
        ExperimentError: as `read_yaml`; or a file extends itself, or `vars` is no mapping.
    """
    if path.resolve() in above:
        msg = f"{path}: extends itself, by way of {' -> '.join(p.name for p in above)}"
        raise ExperimentError(msg)
    tree = read_yaml(path)
    if not isinstance(tree.get("vars") or {}, dict):
        msg = f"{path}: 'vars' holds {type(tree['vars']).__name__}; expected a mapping of names to values"
        raise ExperimentError(msg)
    merged: dict[str, Any] = {}
    for parent in file_names(path, "extends", tree.pop("extends", None)):
        later = read_experiment(find_file(parent, path.parent), (*above, path.resolve()))
        # A stage that two parents share, like the report, runs where the later one has it.
        order = [*(merged.get("stages") or {}), *(later.get("stages") or {})]
        merged = merge(merged, later)
        if order and isinstance(merged["stages"], dict):
            merged["stages"] = {stage: merged["stages"][stage] for stage in reversed(dict.fromkeys(reversed(order)))}
    return merge(merged, tree)


def file_names(path: Path, key: str, value: object) -> list[str]:
    """File names that may be written as one, several or none."""
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        msg = f"{path}: {key}: found {value!r}; expected a file name or a list of them"
        raise ExperimentError(msg)
    return names


def merge(low: dict[str, Any], high: dict[str, Any]) -> dict[str, Any]:
    """`high` over `low`, mapping by mapping; neither is changed."""
    merged = dict(low)
    for key, value in high.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else copy.deepcopy(value)
    return merged
