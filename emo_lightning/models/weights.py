"""Small networks on disk: a folder with `config.json` and `model.safetensors`, read back with nothing missing in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


def save_network(module: nn.Module, directory: str | Path, config: dict[str, Any]) -> None:
    """Write `model.safetensors` and then `config.json`, each to a temporary name that is renamed.

    Args:
        module: its state dict is written, from whatever device it is on.
        directory: created if needed.
        config: JSON values; the key `class` is added with the module's class name.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    temporary = directory / f"{WEIGHTS_NAME}.{os.getpid()}.tmp"
    save_file(tensors, temporary)
    temporary.replace(directory / WEIGHTS_NAME)
    temporary = directory / f"{CONFIG_NAME}.{os.getpid()}.tmp"
    temporary.write_text(json.dumps({"class": type(module).__name__, **config}, indent=2) + "\n")
    temporary.replace(directory / CONFIG_NAME)


def read_config(directory: str | Path, class_name: str, allowed: Collection[str]) -> dict[str, Any]:
    """The config of a saved network, without its `class` key.

    Raises:
        FileNotFoundError: the folder has no `config.json`.
        ValueError: not JSON, another class, or a key that is not in `allowed`.
    """
    path = Path(directory) / CONFIG_NAME
    if not path.is_file():
        msg = f"{directory}: no {CONFIG_NAME}; expected a folder written by {class_name}.save_pretrained"
        raise FileNotFoundError(msg)
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        msg = f"{path}: not JSON: {error}"
        raise ValueError(msg) from None
    if not isinstance(config, dict) or config.get("class") != class_name:
        found = config.get("class") if isinstance(config, dict) else config
        msg = f"{path}: key 'class' is {found!r}; expected {class_name!r}"
        raise ValueError(msg)
    del config["class"]
    if unknown := sorted(set(config) - set(allowed)):
        msg = f"{path}: unknown keys {unknown}; allowed: {sorted(allowed)}"
        raise ValueError(msg)
    return config


def load_weights(module: nn.Module, directory: str | Path) -> None:
    """Load `model.safetensors` into the module, which takes the file's floating-point dtype.

    Raises:
        FileNotFoundError: the folder has no `model.safetensors`.
        ValueError: the file is damaged, or a tensor is missing, unexpected or of another shape.
    """
    path = Path(directory) / WEIGHTS_NAME
    if not path.is_file():
        msg = f"{directory}: no {WEIGHTS_NAME}"
        raise FileNotFoundError(msg)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        msg = f"{path}: damaged: {error}"
        raise ValueError(msg) from None
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        msg = f"{path}: tensors missing: {missing}"
        raise ValueError(msg)
    if unexpected := sorted(tensors.keys() - expected.keys()):
        msg = f"{path}: unexpected tensors: {unexpected}"
        raise ValueError(msg)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            msg = f"{path}: {name} has shape {list(tensor.shape)}; the config asks for {list(expected[name].shape)}"
            raise ValueError(msg)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(tensors[name].dtype)
    module.load_state_dict(tensors)
