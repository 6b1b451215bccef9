"""Checkpoints of others: named by their content, read safely, and loaded whole or not at all."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from emo_lightning.core.errors import UserError
from emo_lightning.core.fingerprints import content_sha256, listing
from emo_lightning.core.model_loading import foreign_files, load_whole
from emo_lightning.core.weight_files import check_weight_file

if TYPE_CHECKING:
    import torch

_CONTENT = {".safetensors", ".bin", ".json", ".txt", ".model"}
"""What of a model folder decides its outputs: weights, configuration, tokenizer."""

_T = TypeVar("_T")

_SHOWN = 3
"""Keys shown of each kind of problem; all are counted."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message names the file and the keys."""


def split_revision(name: str) -> tuple[str, str | None]:
    """`name@revision` of a hub model, or (name, None); a local path is never split."""
    if Path(name).exists() or "@" not in name:
        return name, None
    model, _, revision = name.rpartition("@")
    return model, revision


def identity(name: str) -> str:
    """What the outputs of a model depend on: `sha256:…` of a local file or folder, `name@commit` of a hub model.

    Raises:
        CheckpointError: a local path does not exist, or the hub model cannot be resolved (neither online nor from the cache).
    """
    path = Path(name)
    if path.is_file():
        return f"sha256:{content_sha256(path)}"
    if path.is_dir():
        lines = listing(sorted(p for p in path.iterdir() if p.suffix in _CONTENT), separator="\0")
        return f"sha256:{hashlib.sha256(lines).hexdigest()}"
    if path.suffix or name.startswith(("/", ".", "~")) or name.count("/") > 1:
        msg = f"{name}: no such file or folder"
        raise CheckpointError(msg)
    from transformers.utils.hub import cached_file, extract_commit_hash

    model, revision = split_revision(name)
    try:
        file = cached_file(model, "config.json", revision=revision)
    except OSError as error:
        msg = f"{name}: no local path, and the hub gives no such model: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from None
    commit = extract_commit_hash(file, None)
    if commit is None:
        msg = f"{name}: the hub names no commit for it; give `name@revision`"
        raise CheckpointError(msg)
    return f"{model}@{commit}"


def pretrained(load: Callable[..., _T], name: str, **arguments: object) -> _T:
    """`load(name, **arguments)` of a `from_pretrained`, at the revision that `name@revision` asks for.

    Raises:
        CheckpointError: there is no such model.
    """
    model, revision = split_revision(name)
    with foreign_files(f"{name}: cannot be loaded", CheckpointError):
        return load(model, **_asked(load, revision), **arguments)


def _asked(load: Callable[..., object], revision: str | None) -> dict[str, object]:
    """What goes to every `from_pretrained`: the revision; and no `Auto…` class asks whether it may run a folder's code, as it may not."""
    automatic = str(getattr(getattr(load, "__self__", None), "__name__", "")).startswith("Auto")
    return {**({"revision": revision} if revision else {}), **({"trust_remote_code": False} if automatic else {})}


def complete(load: Callable[..., _T], name: str, **arguments: object) -> _T:
    """As `pretrained`, for the `from_pretrained` of a model: no weight is left at its random start.

    Raises:
        CheckpointError: there is no such model, or it does not fill the class; names keys.
    """
    model, revision = split_revision(name)
    return load_whole(partial(load, **_asked(load, revision), **arguments), model, name, CheckpointError)


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pth` or `.safetensors` file; a wrapper `{"model": …}` and the prefix `module.` are taken off.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that would run code when it is read.
    """
    import torch
    from safetensors import SafetensorError

    path = Path(path)
    if not path.is_file():
        msg = f"{path}: no such file"
        raise CheckpointError(msg)
    check_weight_file(path, CheckpointError)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            value: object = load_file(path)
        else:
            value = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        msg = f"{path}: not a checkpoint of plain tensors: {str(error).splitlines()[0]}"
        raise CheckpointError(msg) from error
    if isinstance(value, Mapping) and isinstance(value.get("model"), Mapping):
        value = value["model"]
    if not isinstance(value, Mapping) or not value or not all(isinstance(v, torch.Tensor) for v in value.values()):
        msg = f"{path}: expected a mapping of names to tensors, perhaps under 'model', found {_kind(value)}"
        raise CheckpointError(msg)
    return {str(key).removeprefix("module."): tensor for key, tensor in value.items()}


def fill(model: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str, ignored: Iterable[str] = ()) -> None:
    """Load a state so that every key lands with its shape and no weight keeps its random start.

    Args:
        model: filled in place.
        state: by the model's own names.
        where: the file, for the message.
        ignored: keys that may be in the state and are no weight of this model.

    Raises:
        CheckpointError: names the keys that are missing, unknown or of another shape; the model is untouched.
    """
    kept = {key: tensor for key, tensor in state.items() if key not in set(ignored)}
    wanted = model.state_dict()
    _refuse(
        where,
        {
            "missing keys": set(wanted) - set(kept),
            "unknown keys": set(kept) - set(wanted),
            "keys of another shape": [
                f"{key} {tuple(kept[key].shape)} instead of {tuple(wanted[key].shape)}"
                for key in set(wanted) & set(kept)
                if kept[key].shape != wanted[key].shape
            ],
        },
    )
    model.load_state_dict(kept)


def _refuse(where: str, problems: Mapping[str, Iterable[object]]) -> None:
    parts = []
    for kind, keys in problems.items():
        if shown := sorted(map(str, keys)):
            more = ", …" if len(shown) > _SHOWN else ""
            parts.append(f"{len(shown)} {kind}: {', '.join(shown[:_SHOWN])}{more}")
    if parts:
        msg = f"{where}: the checkpoint does not fit the model: {'; '.join(parts)}"
        raise CheckpointError(msg)


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with keys {sorted(map(str, value))[:5]}"
    return type(value).__name__
